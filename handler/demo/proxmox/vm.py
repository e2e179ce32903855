"""The VM as qemu-server sees it: its files below the root directory, its process and its monitor."""

import errno
import json
import os
import socket
import time

from .processes import Died, run_command
from .times import LEAST_FOR_QEMU, LEAST_FOR_QMP, scaled, seconds
from .vm_conf import apply_pending, read_section


class Vm:
    """One VM below a root directory."""

    def __init__(self, root: str, vmid: int) -> None:
        self.root, self.vmid = root, vmid
        self.run = f"{root}/run/qemu-server/{vmid}"
        self.pidfile, self.qmp = f"{self.run}.pid", f"{self.run}.qmp"
        self.reboot, self.cleanup = f"{self.run}.reboot", f"{self.run}.cleanup"
        self.conf = f"{root}/etc/pve/qemu-server/{vmid}.conf"
        self.cgroup = f"{root}/sys/fs/cgroup/qemu.slice/{vmid}.scope/cgroup.procs"
        self.lock = f"{root}/var/lock/qemu-server/lock-{vmid}.conf"

    def seconds(self, name: str) -> float:
        """Return how long an entry of `times.SECONDS` takes on this host."""
        return seconds(self.root, name)

    @property
    def pid(self) -> int | None:
        """The pid of the VM's QEMU, if it lives."""
        try:
            with open(self.pidfile, encoding="ascii") as file:
                pid = int(file.read())
            with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
                return pid if self.pidfile.encode() in cmdline.read().split(b"\0") else None
        except (OSError, ValueError):
            return None

    def needs(self, limit: float) -> float:
        """Return `limit`, or more if the VM's QEMU is not stopped, because a live process needs unscaled time."""
        return limit if self._is_stopped_by_signal() else max(limit, LEAST_FOR_QEMU)

    def _is_stopped_by_signal(self) -> bool:
        try:
            return _state(f"/proc/{self.pid}/stat") in ("T", "t")
        except OSError:
            return False

    def wait_until_gone(self, limit: float) -> bool:
        """Wait until the VM has no process; return whether that happened in time."""
        until = time.monotonic() + limit
        while self.pid is not None and time.monotonic() < until:
            time.sleep(0.02)
        return self.pid is None

    def left_in_scope(self) -> bool:
        """Return whether the VM's cgroup has a live thread. One can outlive the process's first thread."""
        try:
            with open(self.cgroup, encoding="ascii") as file:
                tasks = [f"/proc/{pid}/task/{tid}/stat" for pid in file.read().split() for tid in _tasks(pid)]
            return any(_state(task) not in ("Z", "X") for task in tasks)
        except OSError:
            return False

    def forget_scope(self) -> None:
        """Remove the scope if it is empty, as systemd does."""
        if not self.left_in_scope():
            remove(self.cgroup)

    def config(self, section: str = "") -> dict[str, str]:
        """Return the current options, or those of a section. The section `PENDING` has options for the next start."""
        try:
            with open(self.conf, encoding="utf-8") as file:
                return read_section(file.read(), section, self.vmid)
        except FileNotFoundError:
            node = f"nodes/{_node()}/qemu-server/{self.vmid}.conf"
            raise Died(f"Configuration file '{node}' does not exist", errno.ENOENT) from None

    def require_config(self) -> None:
        """Raise Died if this node has no configuration of the VM, as the original does before it looks for QEMU."""
        if not os.path.exists(self.conf):
            raise Died(f"unable to find configuration file for VM {self.vmid} on node '{_node()}'", errno.ENOENT)

    def apply_pending(self) -> None:
        """Make the pending options, which waited for QEMU's end, the current ones."""
        with open(self.conf, encoding="utf-8") as file:
            text = file.read()
        if (applied := apply_pending(text)) != text:
            with open(f"{self.conf}.tmp", "w", encoding="utf-8") as file:
                file.write(applied)
            os.replace(f"{self.conf}.tmp", self.conf)

    def check_lock(self, *allowed: str) -> None:
        """Raise Died if the configuration has a `lock:` that is not among the allowed ones."""
        lock = self.config().get("lock")
        if lock and lock not in allowed:
            raise Died(f"VM is locked ({lock})")

    def check_quorum(self) -> None:
        """Raise Died if the cluster has no quorum."""
        if not os.stat(f"{self.root}/etc/pve/local").st_mode & 0o200:
            raise Died("cluster not ready - no quorum?", 2)

    def start_seconds(self) -> float:
        """Return how long a start may take: Helpers.pm, config_aware_timeout."""
        conf = self.config()
        limit = max(30.0, float(int(conf.get("memory", "512")) // 1024))
        if any(name.startswith("hostpci") for name in conf):
            limit *= 4
        if conf.get("lock") == "suspended":
            limit = max(limit, 300.0)
        if "hugepages" in conf:
            limit = max(limit, 150.0)
        return scaled(self.root, limit + 5.0 * sum(name.startswith("net") for name in conf))

    def under_ha(self) -> bool:
        """Tell whether HA manages this VM (HA/Config.pm, vm_is_ha_managed).

        A resource in state `ignored` does not count, nor does any while HA is disarmed with the mode `ignore`.
        """
        try:
            with open(f"{self.root}/etc/pve/ha/resources.cfg", encoding="utf-8") as file:
                sections = file.read().split("\n\n")
        except FileNotFoundError:
            return False
        mine = [section for section in sections if section.startswith(f"vm: {self.vmid}\n")]
        return bool(mine) and "state ignored" not in mine[0] and self._disarm_mode() != "ignore"

    def _disarm_mode(self) -> str:
        try:
            with open(f"{self.root}/etc/pve/ha/manager_status", encoding="utf-8") as file:
                return str(json.load(file)["disarm"]["mode"])
        except (OSError, ValueError, KeyError):
            return ""

    def ask_ha(self, verb: str, *words: str) -> None:
        """Send a request to HA and return at once, as `hastop` and `hastart` do."""
        say(f"Requesting HA {verb} for VM {self.vmid}")
        if code := run_command(["ha-manager", *words]):
            raise Died(f"command 'ha-manager {' '.join(words)}' failed: exit code {code}")

    # --- the monitor ---

    def monitor(self, command: str, limit: float = 0.0, **arguments: object) -> dict[str, object]:
        """Send one command to the monitor, as QMPClient.pm does; `limit` replaces the ordinary time limit."""
        limit = self.needs(max(limit or self.seconds("qmp"), LEAST_FOR_QMP))
        if self.pid is None:
            raise Died(f"VM {self.vmid} not running")
        failed = f"VM {self.vmid} qmp command '{command}' failed - "
        with self._connected(failed, limit) as client:
            ahead = bytearray()
            try:
                _read_line(client, ahead)
                for request in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                    client.sendall(json.dumps(request).encode() + b"\n")
                    while "return" not in (answer := json.loads(_read_line(client, ahead))):
                        if "error" in answer:
                            raise Died(failed + answer["error"]["desc"])
            except TimeoutError:
                raise Died(f"{failed}got timeout") from None
            except (OSError, ValueError):
                raise Died(f"{failed}client closed connection") from None
            whole: dict[str, object] = answer
            return whole

    def _connected(self, failed: str, limit: float) -> socket.socket:
        until, tries = time.monotonic() + limit, 0
        while True:
            client, tries = socket.socket(socket.AF_UNIX), tries + 1
            client.settimeout(limit)
            try:
                client.connect(self.qmp)
                return client
            except OSError as error:
                client.close()
                why = error.strerror if not isinstance(error, BlockingIOError) else ""
                # an empty text means that another client is connected; then try again, as the original does
                if not why and time.monotonic() >= until:
                    why = f"timeout after {tries} retries"
                if why:
                    raise Died(f"{failed}unable to connect to VM {self.vmid} qmp socket - {why}") from None
            time.sleep(0.1)

    def state(self) -> tuple[str, bool]:
        """Return the state word, and whether it came from QEMU.

        If the monitor is silent, the state is `running`, which is a defect of Proxmox itself.
        """
        if self.pid is None:
            return "stopped", False
        try:
            answer = self.monitor("query-status", self.seconds("qmp-status"))["return"]
            return (str(answer["status"]), True) if isinstance(answer, dict) else ("running", False)
        except Died:
            return "running", False


def _node() -> str:
    return os.uname().nodename.partition(".")[0]


def _read_line(client: socket.socket, ahead: bytearray) -> bytes:
    """Return the next line. `ahead` stores what was read after it.

    `makefile` can't be used here, because a signal raises an exception, and a half-created file then prints a warning
    on stderr.
    """
    while b"\n" not in ahead:
        chunk = client.recv(65536)
        if not chunk:
            raise ConnectionResetError
        ahead += chunk
    line, _, ahead[:] = ahead.partition(b"\n")
    return bytes(line)


def say(line: str) -> None:
    """Print a line unbuffered, so a worker whose parent is gone dies from it."""
    os.write(1, f"{line}\n".encode())


def remove(path: str) -> bool:
    """Remove a file; return whether it existed."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def _tasks(pid: str) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return []


def _state(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0]
