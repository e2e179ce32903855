"""Writes new files with secrets. Only their owner can read them until owner, group and mode are set."""

import os
from pathlib import Path


def write_new(file: Path, text: str, uid: int, gid: int, mode: int) -> None:
    """Write a file that does not exist yet, and sync it. -1 leaves its owner or group unchanged."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
        opened.write(text)
        opened.flush()
        os.fsync(descriptor)


def sync(directory: Path) -> None:
    """Write the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
