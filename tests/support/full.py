"""Small file systems in the place of a host's directories, and programs that fill them. Only root can mount them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(target: Path, size: str = "1m", *options: str) -> Iterator[Path]:
    """Mount a tmpfs of this size at a directory, which is made if it does not exist."""
    target.mkdir(parents=True, exist_ok=True)
    words = ",".join([f"size={size}", *options])
    subprocess.run(["mount", "-t", "tmpfs", "-o", words, "none", str(target)], check=True)
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


def fill(place: Path) -> None:
    """Take all free room, beside what an earlier call has taken."""
    command = ["dd", "if=/dev/zero", f"of={place}/filler", "bs=4k", "oflag=append", "conv=notrunc"]
    full = subprocess.run(command, capture_output=True, text=True)
    assert "No space left on device" in full.stderr
