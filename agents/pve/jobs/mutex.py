"""Locks that a process holds and the kernel releases: one for each VM, and one for each file with one writer."""

import fcntl
import os
import struct
import time

from ..host.paths import Host


class Lock:
    """A POSIX record lock on a file in /run, with the holder's name inside.

    F_SETLK and not flock: a forked probe in uninterruptible sleep must not inherit it. The kernel releases it when
    the job's process ends, however it ends. No other code of the process that holds it may open the file.
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
        """Return the id of the job that holds the lock; None when it is free, or has not named itself in 2 ms a try."""
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
            kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(fd, fcntl.F_GETLK, ask))
            return (0 if kind == fcntl.F_UNLCK else pid), os.pread(fd, 200, 0).decode("ascii", "replace")
        finally:
            os.close(fd)
