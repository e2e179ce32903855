"""Small files that other processes read: written as a whole, and read without an error when they are damaged."""

import json
import os
import time

from .process import process_ticks


def boottime() -> float:
    """Return the seconds since the boot, sleep included. Setting the clock does not change them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def write_atomic(path: str, text: str) -> None:
    """Replace a small file so that no reader ever sees half of it."""
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(draft, path)


def write_process(path: str, pid: int) -> None:
    """Record a process by pid and start time, so that a later process with its pid is not mistaken for it."""
    write_atomic(path, f"{pid} {process_ticks(pid)}")


def read_process(path: str) -> int:
    """Return the pid of a recorded process, 0 when it has ended or none was recorded."""
    try:
        with open(path, encoding="ascii") as file:
            pid, ticks = map(int, file.read().split())
    except (OSError, ValueError):
        return 0
    return pid if ticks and process_ticks(pid) == ticks else 0


def remove_job_dir(directory: str) -> None:
    """Remove a job's directory, which holds files only."""
    try:
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
    except OSError:
        pass


def read_json(path: str) -> dict[str, object] | None:
    """Return the JSON object in a file, None where the file has no complete one."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.load(file)
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
