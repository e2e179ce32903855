"""A stand-in for Proxmox's `qm`: its words, its exit codes (0 or 255), its lock, its ladder; never kinder than it.

Texts and timings: qemu-server 9.2.6 (CLI/qm.pm, API2/Qemu.pm, QemuServer.pm). The VM is a real QEMU process where one
is installed, else `kvm.py`. `<root>/qm.json` makes it misbehave: {"hang": VERB} sleeps for ever, {"fail": {VERB: TEXT}}
dies with the text (once with "times": 1), {"gate": VERB} waits until somebody opens the FIFO `<root>/gate`.
Runs as a script with the standard library alone, as `qm` does: from nowhere near our code.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

LOCK_SECONDS = 10.0
QUIT_SECONDS = 60.0


class Died(Exception):
    """What Proxmox says before it exits with 255."""


class Vm:
    """One VM under a root directory, as qemu-server sees it."""

    def __init__(self, root: str, vmid: int) -> None:
        self.root, self.vmid = root, vmid
        run = f"{root}/run/qemu-server/{vmid}"
        self.pidfile, self.qmp = f"{run}.pid", f"{run}.qmp"
        self.conf = f"{root}/etc/pve/qemu-server/{vmid}.conf"
        self.scope = f"{root}/sys/fs/cgroup/qemu.slice/{vmid}.scope"

    @property
    def pid(self) -> int | None:
        try:
            with open(self.pidfile, encoding="ascii") as file:
                pid = int(file.read())
            with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                return pid if self.pidfile.encode() in cmdline.read().split(b"\0") else None
        except (OSError, ValueError):
            return None

    def config(self) -> dict[str, str]:
        try:
            with open(self.conf, encoding="utf-8") as file:
                return dict(line.rstrip("\n").split(": ", 1) for line in file if ": " in line)
        except FileNotFoundError:
            node = f"nodes/{os.uname().nodename}/qemu-server/{self.vmid}.conf"
            raise Died(f"Configuration file '{node}' does not exist") from None

    def check_lock(self) -> None:
        if lock := self.config().get("lock"):
            raise Died(f"VM is locked ({lock})")

    def monitor(self, command: str, seconds: float) -> dict[str, object]:
        """Say one command on the monitor, as QMPClient.pm does."""
        with self._connected(seconds) as client:
            stream = client.makefile("rw")
            stream.readline()
            for word in ("qmp_capabilities", command):
                stream.write(json.dumps({"execute": word}) + "\n")
                stream.flush()
                while "return" not in (answer := json.loads(stream.readline())):
                    if "error" in answer:
                        raise Died(f"VM {self.vmid} qmp command '{command}' failed - {answer['error']['desc']}")
            whole: dict[str, object] = answer
            return whole

    def _connected(self, seconds: float) -> socket.socket:
        until = time.monotonic() + seconds
        while True:
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(seconds)
            try:
                client.connect(self.qmp)
                return client
            except BlockingIOError:  # somebody else talks; the original retries too
                client.close()
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def state(self) -> str:
        """Return the state word; a silent monitor falls back to `running`, which is Proxmox's own defect."""
        if self.pid is None:
            return "stopped"
        try:
            answer = self.monitor("query-status", 3)["return"]
            return str(answer["status"]) if isinstance(answer, dict) else "running"
        except (OSError, ValueError):
            return "running"


def status(vm: Vm, arguments: list[str]) -> None:
    vm.config()
    state = vm.state()
    if "--verbose" in arguments:
        print(f"name: {vm.config().get('name', '')}\nqmpstatus: {state}")
    print(f"status: {'stopped' if state == 'stopped' else state}")


def config(vm: Vm, arguments: list[str]) -> None:
    for key, value in sorted(vm.config().items()):
        print(f"{key}: {value}")


def pending(vm: Vm, arguments: list[str]) -> None:
    for key, value in sorted(vm.config().items()):
        print(f"cur {key}: {value}")


def stop(vm: Vm, arguments: list[str]) -> None:
    vm.check_lock()
    pid = vm.pid
    if pid is not None:
        _stop_process(vm, pid)
    for path in (vm.pidfile, vm.qmp, f"{vm.scope}/cgroup.procs"):
        if os.path.exists(path):
            os.unlink(path)


def _stop_process(vm: Vm, pid: int) -> None:
    words = "VM still running - terminating now with SIGTERM"
    try:
        vm.monitor("quit", QUIT_SECONDS)
        if _gone(vm, QUIT_SECONDS):
            return
    except (OSError, ValueError, Died):
        words = "VM quit/powerdown failed - terminating now with SIGTERM"
    print(words, file=sys.stderr)
    os.kill(pid, signal.SIGTERM)
    if not _gone(vm, 10):
        print("VM still running - terminating now with SIGKILL", file=sys.stderr)
        os.kill(pid, signal.SIGKILL)
        time.sleep(1)  # and, like the original, no second look


def _gone(vm: Vm, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while vm.pid is not None and time.monotonic() < until:
        time.sleep(0.02)
    return vm.pid is None


def reset(vm: Vm, arguments: list[str]) -> None:
    vm.check_lock()
    if vm.pid is None:
        raise Died(f"VM {vm.vmid} not running")
    vm.monitor("system_reset", 5)


def start(vm: Vm, arguments: list[str]) -> None:
    if not os.stat(f"{vm.root}/etc/pve/local").st_mode & 0o200:
        raise Died("cluster not ready - no quorum?")
    vm.check_lock()
    if vm.pid is not None:
        raise Died(f"VM {vm.vmid} already running")
    with open(f"{vm.root}/vm.json", encoding="utf-8") as file:
        argv = json.load(file)
    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ended.returncode:
        raise Died(f"start failed: QEMU exited with code {ended.returncode}")
    os.makedirs(vm.scope, exist_ok=True)
    with open(f"{vm.scope}/cgroup.procs", "w", encoding="ascii") as file:
        file.write(f"{vm.pid}\n")


VERBS = {"status": status, "config": config, "pending": pending, "stop": stop, "reset": reset, "start": start}


def misbehave(root: str, verb: str) -> None:
    """Do what the test or the rehearsal asked for, before the verb itself."""
    try:
        with open(f"{root}/qm.json", encoding="utf-8") as file:
            mode = json.load(file)
    except FileNotFoundError:
        return
    if mode.get("hang") in (verb, "all"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()
    if mode.get("gate") == verb:
        with open(f"{root}/gate", encoding="ascii"):
            pass
    if text := mode.get("fail", {}).get(verb):
        if mode.get("times") == 1:
            os.unlink(f"{root}/qm.json")
        raise Died(text)


def locked(vm: Vm) -> int:
    """Take the config lock that stop and start hold for their whole run."""
    path = f"{vm.root}/var/lock/qemu-server/lock-{vm.vmid}.conf"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    until = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > until:
                print("trying to acquire lock...", file=sys.stderr)
                raise Died(f"can't lock file '/var/lock/qemu-server/lock-{vm.vmid}.conf' - got timeout") from None
            time.sleep(0.05)


def main() -> int:
    """`qm.py ROOT VERB VMID [OPTIONS]`."""
    root, verb, vmid, *arguments = sys.argv[1:]
    vm = Vm(root, int(vmid))
    try:
        lock = locked(vm) if verb in ("stop", "start", "reset") else None
        misbehave(root, verb)
        VERBS[verb](vm, arguments)
        if lock is not None:
            os.close(lock)
    except Died as error:
        print(error, file=sys.stderr)
        return 255
    return 0


if __name__ == "__main__":
    sys.exit(main())
