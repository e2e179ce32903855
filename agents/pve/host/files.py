"""Small files that other processes read: written as a whole, and read without an error when they are damaged."""

import json
import os
import time

JSON_CHARS = 2 * 1024 * 1024  # a longer file is as good as damaged


def boottime() -> float:
    """Return the seconds since the boot, sleep included. Setting the clock does not change them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_small_file(path: str, limit: int = -1) -> str:
    """Return a file's text, `limit` characters at most; empty if it can't be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(limit)
    except OSError:
        return ""


def write_atomic(path: str, text: str) -> None:
    """Replace a small file so that no reader ever sees half of it."""
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(draft, path)


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
        value = json.loads(read_small_file(path, JSON_CHARS))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
