"""The stand-in `qm`'s VM: its files below the root, its process and its monitor, as qemu-server sees them."""

import json
import os
import socket
import time

from .script import script


class Died(Exception):
    """What Proxmox says before it exits with 255."""


class Vm:
    """One VM under a root directory, as qemu-server sees it."""

    def __init__(self, root: str, vmid: int) -> None:
        self.root, self.vmid = root, vmid
        self.quit_seconds, self.term_seconds = 60.0, 10.0
        run = f"{root}/run/qemu-server/{vmid}"
        self.pidfile, self.qmp = f"{run}.pid", f"{run}.qmp"
        self.conf = f"{root}/etc/pve/qemu-server/{vmid}.conf"
        self.cgroup = f"{root}/sys/fs/cgroup/qemu.slice/{vmid}.scope/cgroup.procs"

    @property
    def pid(self) -> int | None:
        try:
            with open(self.pidfile, encoding="ascii") as file:
                pid = int(file.read())
            with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                return pid if self.pidfile.encode() in cmdline.read().split(b"\0") else None
        except (OSError, ValueError):
            return None

    def left_in_scope(self) -> bool:
        """Tell whether a process of the VM lives in its cgroup: a thread of it may, when the first one has ended."""
        try:
            with open(self.cgroup, encoding="ascii") as file:
                tasks = [f"/proc/{pid}/task/{tid}/stat" for pid in file.read().split() for tid in _tasks(pid)]
            return any(_state(task) not in ("Z", "X") for task in tasks)
        except OSError:
            return False

    def config(self) -> dict[str, str]:
        try:
            with open(self.conf, encoding="utf-8") as file:
                return dict(line.rstrip("\n").split(": ", 1) for line in file if ": " in line)
        except FileNotFoundError:
            node = f"nodes/{os.uname().nodename.partition('.')[0]}/qemu-server/{self.vmid}.conf"
            raise Died(f"Configuration file '{node}' does not exist") from None

    def check_lock(self, *allowed: str) -> None:
        lock = self.config().get("lock")
        if lock and lock not in allowed:
            raise Died(f"VM is locked ({lock})")

    def under_ha(self) -> bool:
        """Tell whether a resource of HA has this VM; one that is `ignored` counts as none."""
        try:
            with open(f"{self.root}/etc/pve/ha/resources.cfg", encoding="utf-8") as file:
                sections = file.read().split("\n\n")
        except FileNotFoundError:
            return False
        mine = [section for section in sections if section.startswith(f"vm: {self.vmid}\n")]
        return bool(mine) and "state ignored" not in mine[0]

    def ask_ha(self, verb: str, *words: str) -> None:
        """Ask HA and return at once, as `hastop` and `hastart` do."""
        import subprocess

        print(f"Requesting HA {verb} for VM {self.vmid}", flush=True)
        ended = subprocess.run([*script("ha"), self.root, *words])
        if ended.returncode:
            raise Died(f"command 'ha-manager {' '.join(words)}' failed: exit code {ended.returncode}")

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

    def state(self) -> tuple[str, bool]:
        """Return the state word, and whether QEMU said it: a silent monitor falls back to `running`, which is
        Proxmox's own defect."""
        if self.pid is None:
            return "stopped", False
        try:
            answer = self.monitor("query-status", 3)["return"]
            return (str(answer["status"]), True) if isinstance(answer, dict) else ("running", False)
        except (OSError, ValueError):
            return "running", False


def _tasks(pid: str) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return []


def _state(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]
