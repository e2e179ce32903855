"""The id of a sessions.dir: random, in a file of it. Handlers with different ones don't share their conversations.

Whichever handler comes first makes it. It is a file like the others: a backup that is put back has the id that the lost
directory had, and a session goes on there.
"""

import contextlib
import os
import re
import secrets
import stat

NAME = "id"
_SHAPE = re.compile(rb"([0-9a-f]{32})\n")


def find_directory_id(directory: str, group: int = -1) -> str:
    """Return the id of a directory, and make one if there is none; an empty text if that can't be done.

    With `group`, that group may read the new file. All of it blocks.
    """
    if not os.path.lexists(f"{directory}/{NAME}"):
        with contextlib.suppress(OSError):  # a full or read-only disk, or another handler was first
            _make(directory, group)
    return read_directory_id(directory)


def read_directory_id(directory: str) -> str:
    """Return the id of a directory, an empty text if there is none or its file is damaged."""
    try:
        return _read(directory)
    except OSError:
        return ""


def _read(directory: str) -> str:
    fd = os.open(f"{directory}/{NAME}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        match = _SHAPE.fullmatch(os.read(fd, 64)) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)
    return match[1].decode() if match else ""


def _make(directory: str, group: int) -> None:
    """Make the file whole or not at all. A link is made only where there is nothing, so of two handlers one wins."""
    value = secrets.token_hex(16)
    path = f"{directory}/.{NAME}-{value}"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(value.encode() + b"\n")
            if group >= 0:
                os.fchown(fd, -1, group)
                os.fchmod(fd, 0o640)
            file.flush()
            os.fsync(fd)
        os.link(path, f"{directory}/{NAME}")
    finally:
        os.unlink(path)
