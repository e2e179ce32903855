"""A stand-in for Proxmox's `qm`: its words, its exit codes (0 or 255), its lock, its ladder; never kinder than it.

Texts and timings: qemu-server 9.2.6 (CLI/qm.pm, API2/Qemu.pm, QemuServer.pm). The VM is a real QEMU process where one
is installed, else `kvm.py`. What lies in the host's files it obeys: a configuration's `lock:`, the flock, HA's
resources, the quorum bit; `modes.py` has the failures that must be asked for.
"""

import fcntl
import json
import os
import signal
import sys
import time

from .modes import MODES, misbehave, said_by
from .vm import Died, Vm

LOCK_SECONDS = 10.0


def status(vm: Vm, arguments: list[str]) -> None:
    vm.config()
    state, answers = vm.state()
    if "--verbose" not in arguments:
        print(f"status: {state}")
        return
    said = {"name": vm.config().get("name", ""), "qmpstatus": state, "vmid": vm.vmid}
    said |= {"lock": lock} if (lock := vm.config().get("lock")) else {}
    said |= {"pid": vm.pid} if vm.pid else {}
    said |= {"running-machine": "pc-i440fx-10.0+pve0", "running-qemu": "10.0.0"} if answers else {}
    said["status"] = "stopped" if state == "stopped" else "running"
    for key, value in sorted(said.items()):
        print(f"{key}: {value}")


def config(vm: Vm, arguments: list[str]) -> None:
    for key, value in sorted(vm.config().items()):
        print(f"{key}: {value}")


def pending(vm: Vm, arguments: list[str]) -> None:
    for key, value in sorted(vm.config().items()):
        print(f"cur {key}: {value}")


def stop(vm: Vm, arguments: list[str]) -> None:
    vm.check_lock()
    pid = vm.pid
    if pid is not None and "unproven" not in arguments:
        _stop_process(vm, pid)
    for path in (vm.pidfile, vm.qmp, *(() if vm.left_in_scope() else (vm.cgroup,))):
        if os.path.exists(path):
            os.unlink(path)


def _stop_process(vm: Vm, pid: int) -> None:
    words = "VM still running - terminating now with SIGTERM"
    try:
        vm.monitor("quit", vm.quit_seconds)
        if _gone(vm, vm.quit_seconds):
            return
    except (OSError, ValueError, Died):
        words = "VM quit/powerdown failed - terminating now with SIGTERM"
    print(words, file=sys.stderr)
    os.kill(pid, signal.SIGTERM)
    if not _gone(vm, vm.term_seconds):
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
    vm.check_lock("suspended", *(("backup",) if vm.pid else ()))
    if vm.pid is not None and vm.config().get("lock") == "backup":
        vm.monitor("cont", 5)
        return
    if vm.pid is not None:
        raise Died(f"VM {vm.vmid} already running")
    if vm.left_in_scope():
        raise Died("timeout waiting on systemd")
    with open(f"{vm.root}/vm.json", encoding="utf-8") as file:
        argv = json.load(file)
    import subprocess

    ended = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ended.returncode:
        raise Died(f"start failed: QEMU exited with code {ended.returncode}")
    os.makedirs(os.path.dirname(vm.cgroup), exist_ok=True)
    with open(vm.cgroup, "w", encoding="ascii") as file:
        file.write(f"{vm.pid}\n")


HA_WORDS = {
    "stop": ("crm-command", "stop", "vm:{vmid}", "0"),
    "start": ("set", "vm:{vmid}", "--state", "started"),
}
VERBS = {"status": status, "config": config, "pending": pending, "stop": stop, "reset": reset, "start": start}


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
    """`ROOT VERB VMID [OPTIONS]`; `--from-ha` is how HA's LRM calls it."""
    root, verb, vmid, *arguments = sys.argv[1:]
    vm = Vm(root, int(vmid))
    try:
        if verb in HA_WORDS and "--from-ha" not in arguments and vm.under_ha():
            misbehave(vm, verb)
            vm.ask_ha(verb, *(word.format(vmid=vmid) for word in HA_WORDS[verb]))
            return 0
        lock = locked(vm) if verb in ("stop", "start", "reset") else None
        how = misbehave(vm, verb)
        VERBS[verb](vm, [*arguments, how])
        if lock is not None:
            os.close(lock)
        if how == "after":
            raise Died(said_by(MODES["somebody-was-faster"], vm))
    except Died as error:
        print(error, file=sys.stderr)
        return 255
    return 0
