"""Writes new files with secrets to the disk, readable for their owner alone until they are what they shall be."""

import os
from pathlib import Path


def write_new(file: Path, text: str, uid: int, gid: int, mode: int) -> None:
    """Write a file that is not there yet to the disk. -1 leaves its owner or its group."""
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
