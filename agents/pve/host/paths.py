"""The paths of a Proxmox host, the settings of the SSH key in use, and small files that other processes read."""

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass

from ..vm_list import VmList

# --- The paths of a Proxmox host, and the settings of the SSH key in use ---
#
# Every host path goes through `Host.path`, so that `--root` moves all of them for tests and the demo.


@dataclass(frozen=True)
class Host:
    """One VM on one Proxmox host; `root` prefixes every path and is empty in production.

    `last_words`: the guest's kernel log may be read from its memory. `asked_not`: the request says not to.
    """

    vmid: int
    root: str = ""
    last_words: bool = True
    asked_not: bool = False

    def path(self, absolute: str) -> str:
        """Return the host path `absolute` under the root."""
        return self.root + absolute

    @property
    def run_dir(self) -> str:
        """The directory of ids, jobs and the lock, in a tmpfs, so a reboot empties it."""
        return self.path(f"/run/breakglass/{self.vmid}")

    @property
    def archive(self) -> str:
        """The directory with copies of finished jobs, for people; no verb waits for this disk."""
        return self.path(f"/var/lib/breakglass/{self.vmid}/jobs")

    @property
    def pidfile(self) -> str:
        """The file with the pid of the VM's QEMU."""
        return self.path(f"/run/qemu-server/{self.vmid}.pid")

    @property
    def qmp(self) -> str:
        """The socket of QEMU's monitor."""
        return self.path(f"/run/qemu-server/{self.vmid}.qmp")

    @property
    def scope(self) -> str:
        """The file with the pids in the cgroup in which qemu-server starts the VM, leftovers included."""
        return self.path(f"/sys/fs/cgroup/qemu.slice/{self.vmid}.scope/cgroup.procs")

    def proc(self, pid: int, name: str) -> str:
        """Return the path of a file in a process's /proc directory."""
        return self.path(f"/proc/{pid}/{name}")

    def log(self, line: str) -> None:
        """Log one line about this VM, as `log` does."""
        log(self.root, f"vm={self.vmid} {line}")


@dataclass(frozen=True)
class Key:
    """The forced command's settings for the SSH key that logged in."""

    vms: VmList
    read_only: bool = False
    name: str = ""
    root: str = ""
    last_words: bool = True

    def host(self, vmid: int, asked_not: bool = False) -> Host:
        """Return the host's paths and settings for one of the VMs."""
        return Host(vmid, self.root, self.last_words, asked_not)


def log(root: str, line: str) -> None:
    """Send one line to the journal without waiting, so that a full or missing log stops nothing."""
    packet = f"<37>breakglass-pve[{os.getpid()}]: {line}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.setblocking(False)
        journal.sendto(packet.encode(errors="replace"), f"{root}/dev/log")


# --- Small files that other processes read: written completely or not at all, and read without an error if they are
# damaged ---

JSON_CHARS = 2 * 1024 * 1024  # a longer file counts as damaged


def boottime() -> float:
    """Return the seconds since the boot, sleep included. Setting the clock does not change them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_small_file(path: str, limit: int = -1) -> str:
    """Return a file's text, `limit` characters at most; empty if it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(limit)
    except OSError:
        return ""


def write_atomic(path: str, text: str) -> None:
    """Replace a small file so that no reader ever sees half of it."""
    os.replace(write_draft(path, text), path)


def write_draft(path: str, text: str) -> str:
    """Write a file that is to replace another; return its path. If the disk is full, no part of it remains."""
    draft = f"{path}.{os.getpid()}"
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        with suppress(OSError):
            os.unlink(draft)
        raise
    return draft


def remove_job_dir(directory: str) -> None:
    """Remove a job's directory, which holds files only."""
    with suppress(OSError):
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)


def read_json(path: str) -> dict[str, object] | None:
    """Return the JSON object in a file, None where the file has no complete one."""
    try:
        value = json.loads(read_small_file(path, JSON_CHARS))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
