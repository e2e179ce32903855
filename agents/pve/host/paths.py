"""Where things are on a Proxmox host, and how this process was told to behave.

Every host path goes through `Host.path`, so that `--root` moves them all for tests and the demo.
"""

import os
import socket
from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """One VM on one Proxmox host; `root` prefixes every path and is empty in production."""

    vmid: int
    root: str = ""

    def path(self, absolute: str) -> str:
        """Return the host path `absolute` under the root."""
        return self.root + absolute

    @property
    def run_dir(self) -> str:
        """The authority on ids, jobs and the lock: a tmpfs, gone with the boot it describes."""
        return self.path(f"/run/breakglass/{self.vmid}")

    @property
    def archive(self) -> str:
        """Copies of finished jobs, for people; no verb ever waits for this disk."""
        return self.path(f"/var/lib/breakglass/{self.vmid}/jobs")

    @property
    def pidfile(self) -> str:
        return self.path(f"/run/qemu-server/{self.vmid}.pid")

    @property
    def qmp(self) -> str:
        return self.path(f"/run/qemu-server/{self.vmid}.qmp")

    @property
    def scope(self) -> str:
        """The cgroup in which qemu-server starts the VM; leftover processes are seen here."""
        return self.path(f"/sys/fs/cgroup/qemu.slice/{self.vmid}.scope/cgroup.procs")

    def proc(self, pid: int, name: str) -> str:
        return self.path(f"/proc/{pid}/{name}")

    def log(self, line: str) -> None:
        """Send one line to the journal, without waiting: a full or absent log stops nothing."""
        packet = f"<37>breakglass-pve[{os.getpid()}]: vm={self.vmid} {line}"
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
                log.setblocking(False)
                log.sendto(packet.encode(), self.path("/dev/log"))
        except OSError:
            pass


@dataclass(frozen=True)
class Key:
    """What the forced command says of the SSH key that logged in."""

    read_only: bool = False
    name: str = ""
