"""Starts processes that a test can recognise by their command line, and finds them."""

import contextlib
import os
from pathlib import Path

from .stages import until


def nap(seconds: int) -> str:
    """Return a command that sleeps, and that no other test run has."""
    return f"sleep {seconds}.{os.getpid():07d}1"


def find_processes(words: str) -> list[int]:
    """Return the processes that have these words on their command line."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ")
            if words.encode() in line:
                found.append(int(name))
    return found


def wait_for_process(words: str) -> None:
    """Return once a process has these words on its command line."""
    until(lambda: find_processes(words), f"a process {words}")


def wait_until_gone(words: str, seconds: float = 60) -> None:
    """Return once no process has these words on its command line."""
    until(lambda: not find_processes(words), f"the end of {words}", seconds)
