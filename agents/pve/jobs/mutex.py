"""The host's resources for jobs: locks that the kernel releases, and room in /run that is reserved for power verbs."""

import fcntl
import os
import struct
import time
from contextlib import suppress

from ..host.paths import Host

# --- Locks that a process holds and the kernel releases: one for each VM, and one for each file with one writer ---


class Lock:
    """A POSIX record lock on a file in /run, with the holder's name inside.

    It uses F_SETLK and not flock, because a forked probe in uninterruptible sleep must not inherit the lock. The kernel
    releases it when the job's process ends, however it ends. No other code of the process that holds the lock may open
    the file.
    """

    def __init__(self, host: Host, name: str) -> None:
        self._path = f"{host.run_dir}/{name}"
        self._fd: int | None = None

    def take(self, job_id: str) -> bool:
        """Take the lock for `job_id` without waiting; False when another process holds it."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return False
        self._fd = fd
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {job_id}".encode(), 0)
        return True

    def release(self) -> None:
        """Release the lock, if this object holds it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def holder(self, tries: int = 100) -> str | None:
        """Return the id of the job that holds the lock; None if it is free, or its holder wrote no id in time."""
        for _ in range(tries):
            pid, text = self._peek()
            if pid == 0:
                return None
            if text.partition(" ")[0] == str(pid):
                return text.partition(" ")[2]
            time.sleep(0.002)  # the new holder has not written its name yet
        return None

    def _peek(self) -> tuple[int, str]:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0, ""
        try:
            ask = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # struct flock, 64 bit Linux
            pid = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, ask))[4]  # the kernel keeps 0 if it is free
            return pid, os.pread(fd, 200, 0).decode("ascii", "replace")
        finally:
            os.close(fd)


# --- Room that is kept in /run for the power verbs of this host. Bookkeeping must not stop a rescue ---
#
# One file keeps bytes, and a part of it is freed if /run is full. Empty files keep inodes, and some of these are
# removed if no inode is left, because the captures of one token can take all that a host has.

RESERVE_BYTES = 1024 * 1024
PART_BYTES = 64 * 1024  # a job needs a third of that for its request, lock, stages and result
RESERVE_INODES = 512
PART_INODES = 32  # a job needs half of them for its files, and its `qm` the rest


def fill_reserve(root: str) -> None:
    """Fill the reserve again if as much room stays free, so that running jobs keep the room that it gave them."""
    place = f"{root}/run/breakglass"
    free_bytes, free_inodes = _free(root)
    with suppress(OSError), open(f"{place}/reserve", "ab") as file:  # the host works without a reserve
        if file.tell() < RESERVE_BYTES < free_bytes - RESERVE_BYTES:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
    with suppress(OSError):
        os.makedirs(f"{place}/inodes", 0o700, exist_ok=True)
        if len(os.listdir(f"{place}/inodes")) < RESERVE_INODES < free_inodes - RESERVE_INODES:
            for number in range(RESERVE_INODES):
                os.close(os.open(f"{place}/inodes/{number}", os.O_CREAT, 0o600))


def is_short(root: str) -> bool:
    """Tell whether /run has less room than a job may need."""
    free_bytes, free_inodes = _free(root)
    return free_bytes < PART_BYTES or free_inodes < PART_INODES


def free_part(root: str) -> None:
    """Free a part of the reserve, if there is any left."""
    place = f"{root}/run/breakglass"
    with suppress(OSError):
        os.truncate(f"{place}/reserve", max(0, os.path.getsize(f"{place}/reserve") - PART_BYTES))
    with suppress(OSError):
        for name in os.listdir(f"{place}/inodes")[:PART_INODES]:
            os.unlink(f"{place}/inodes/{name}")


def _free(root: str) -> tuple[float, float]:
    """Return the bytes and the inodes that are free; a tmpfs may have no limit."""
    status = os.statvfs(f"{root}/run/breakglass")
    free_bytes = status.f_bavail * status.f_frsize if status.f_blocks else float("inf")
    return free_bytes, status.f_favail if status.f_files else float("inf")
