"""Copies a session's transcript into the home of a turn's claude, and out of it. Standard library only, for the runner.

Between turns the transcript is one file of the handler's. What is in the home may be the work of a claude that was
taken over. So both copies are made by a process with claude's own rights: it follows no link, and takes one regular
file that has no other name. The CLI needs no other file of an earlier turn (tried with 2.1.331).
"""

import errno
import os
import re
import stat
from collections.abc import Sequence

from .removal import open_directory

MOST_BYTES = 64 << 20  # claude itself can't write a longer file (processes.LIMITS)
_CHUNK = 1 << 20
_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


def transcript_place(cwd: str, sid: str) -> tuple[str, str, str]:
    """Return the two directories in claude's home, and the file there, for the session of a working directory."""
    return "projects", re.sub(r"[^A-Za-z0-9]", "-", cwd), f"{sid}.jsonl"


def copy_in(source: int, home: str, place: Sequence[str]) -> None:
    """Write the transcript from an open file into a new home, whole or not at all. Raises OSError.

    The turn may be cancelled meanwhile, and half a transcript would be copied out again, over the whole one.
    """
    *directories, name = place
    path = home
    for each in directories:
        path = f"{path}/{each}"
        os.mkdir(path, 0o700)
    at = open_directory(home, *directories)
    _copy(source, os.open("new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600, dir_fd=at))
    os.rename("new", name, src_dir_fd=at, dst_dir_fd=at)


def copy_out(home: str, place: Sequence[str], target: int) -> None:
    """Write the transcript in a home into an open file, to the disk.

    Raises FileNotFoundError when claude wrote none, and OSError when what stands in its place is not one.
    """
    *directories, name = place
    source = os.open(name, os.O_RDONLY | _FLAGS, dir_fd=open_directory(home, *directories))
    found = os.fstat(source)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
        raise OSError(errno.EBADF, "not a regular file of claude's with one name")
    _copy(source, target)
    os.fsync(target)


def _copy(source: int, target: int) -> None:
    """Copy a whole file. Raises OSError for more than MOST_BYTES."""
    if os.fstat(source).st_size > MOST_BYTES:
        raise OSError(errno.EFBIG, f"more than {MOST_BYTES} bytes")
    os.ftruncate(target, 0)
    at = 0
    while chunk := os.pread(source, _CHUNK, at):
        at += os.pwrite(target, chunk, at)
