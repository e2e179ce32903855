"""Finds what is left of a demo: processes that have its directory in their command line or open files.

The environment does not count: a person's `breakglass chat` in another terminal has the directory there.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

SECONDS = 10.0  # a turn of claude ends by itself once the handler has ended
_PAUSE = 0.05


def wait_for_end(directory: str) -> list[int]:
    """Return the processes of a demo that are left after some seconds; none as soon as all have ended."""
    until = time.monotonic() + SECONDS
    while (left := list(_find_processes(directory))) and time.monotonic() < until:
        time.sleep(_PAUSE)
    return left


def _find_processes(directory: str) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid() and _uses(entry, directory):
            yield int(entry.name)


def _uses(process: Path, directory: str) -> bool:
    """Tell whether a process has the directory somewhere. One of another user, or one that has ended, has not."""
    mark = os.fsencode(directory)
    try:
        if mark in process.joinpath("cmdline").read_bytes():
            return True
        return any(directory in os.readlink(link) for link in process.joinpath("fd").iterdir())
    except OSError:
        return False
