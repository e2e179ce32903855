"""The directories that claude fills: their removal, and the transcript in them. Standard library only."""

import errno
import os
import re
import stat
import time
from collections.abc import Sequence
from itertools import islice

# --- Removes directories that claude may have filled, however deep they are. Standard library only, for the runner.
#
# It enters no directory of another user. If claude has a user of its own, a process with that user's rights removes
# its tree, and root never walks it. The tree is not walked down either: the directories in a directory are moved to
# the top, until it is empty. So each step is progress that lasts, also if the time is over after it.

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BATCH = 1000  # names that are read at once


def open_directory(path: str, *names: str) -> int:
    """Return a descriptor of a directory, or of one below it; `path` and `names` are no links. Raises OSError."""
    fd = os.open(path, DIRECTORY)
    for name in names:
        above = fd
        try:
            fd = os.open(name, DIRECTORY, dir_fd=above)
        finally:
            os.close(above)
    return fd


def remove_directory(path: str, until: float) -> None:
    """Remove a directory of ours and what it contains. Raises OSError when something is left at that time."""
    try:
        empty_directory(path, until)
        os.rmdir(path)
    except FileNotFoundError:
        if os.path.lexists(path):  # then the error is not that another handler was first
            raise


def empty_directory(path: str, until: float) -> None:
    """Remove what a directory of ours contains. Raises OSError when something is left at that time.

    What can't be removed, as a directory of another user that is not empty, is left.
    """
    mode = os.stat(path, follow_symlinks=False).st_mode & 0o777
    if mode & 0o700 != 0o700:
        os.chmod(path, mode | 0o700)  # what others may do there stays: in a turn's directory claude's user has its own
    top = open_directory(path)
    try:
        left = _empty(top, top, until)
    finally:
        os.close(top)
    if left:
        raise OSError(f"{len(left)} entries of {path} can't be removed: {min(left)}")


def _empty(directory: int, top: int, until: float) -> set[str]:
    """Remove the entries of a directory, or move them to `top`; return the names of those that are left."""
    left: set[str] = set()
    while True:
        with os.scandir(directory) as entries:
            names = list(islice((each.name for each in entries if each.name not in left), _BATCH))
        if not names:
            return left
        for name in names:
            if time.monotonic() > until:
                raise TimeoutError("there was no time to remove all")
            try:
                _remove(directory, name, top, until)
            except FileNotFoundError:  # another handler was first
                pass
            except TimeoutError:
                raise
            except OSError:
                left.add(name)


def _remove(directory: int, name: str, top: int, until: float) -> None:
    """Remove an entry of `top`, or one of a directory in it, whose own directories are moved to `top`."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=directory)
    elif found.st_uid != os.geteuid():
        os.rmdir(name, dir_fd=directory)
    elif directory != top:
        os.chmod(name, 0o700, dir_fd=directory)  # to be moved, it has to be writable
        os.rename(name, os.urandom(16).hex(), src_dir_fd=directory, dst_dir_fd=top)
    else:
        os.chmod(name, 0o700, dir_fd=top)
        below = os.open(name, DIRECTORY, dir_fd=top)
        try:
            _empty(below, top, until)
        finally:
            os.close(below)
        os.rmdir(name, dir_fd=top)


# --- Copies a session's transcript into the home of a turn's claude, and out of it. Standard library only, for the
# runner.
#
# Between turns the transcript is one file of the handler's. What is in the home may be the work of a claude that was
# taken over. So both copies are made by a process with claude's own rights: it follows no link, and takes one regular
# file that has no other name. The CLI needs no other file of an earlier turn (tried with 2.1.331).

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
