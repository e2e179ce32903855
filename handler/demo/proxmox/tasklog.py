"""The task log's two lists: `active`, newest first, and `index`, which is appended to (RESTEnvironment.pm, INotify.pm).

`active` repeats a finished task until there are 25 newer ones. If a task's parent was killed, the task stays in
`active` as running, until another task starts and finds that the process is gone.
"""

import fcntl
import os
import time
from contextlib import suppress

from .processes import Died

KEPT = 25


def add_running(root: str, upid: str) -> None:
    """Record a task as running."""
    _rewrite(root, upid, None)


def add_ended(root: str, upid: str, status: str) -> None:
    """Record how a task ended."""
    _rewrite(root, upid, status)


def _rewrite(root: str, upid: str, status: str | None) -> None:
    tasks = f"{root}/var/log/pve/tasks"
    os.makedirs(tasks, exist_ok=True)
    lock = os.open(f"{tasks}/.active.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = {line.split()[0]: line for line in _lines(f"{tasks}/active")}
        running = [name for name, line in known.items() if line.endswith(" 0")] + ([] if upid in known else [upid])
        over = [name for name in running if (status is not None if name == upid else not _lives(name))]
        now = f"{int(time.time()):08X}"
        statuses = {name: f"{now} {status if name == upid and status else 'unexpected status'}" for name in over}
        finished = [f"{name} 1 {end}" for name, end in statuses.items()]
        finished += [line for name, line in known.items() if name not in running]
        with suppress(OSError), open(f"{tasks}/index", "a", encoding="utf-8") as file:
            file.writelines(f"{name} {end}\n" for name, end in statuses.items())
        lines = [f"{name} 0" for name in running if name not in over] + finished[:KEPT]
        _write_active(tasks, "".join(f"{line}\n" for line in lines))
    finally:
        os.close(lock)


def _write_active(tasks: str, text: str) -> None:
    """Replace the list of tasks. If the disk is full, `qm` ends with the error, and its worker continues."""
    draft = f"{tasks}/active.tmp.{os.getpid()}"
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        os.unlink(draft)
        words = f"closing file '/var/log/pve/tasks/active.tmp.{os.getpid()}' failed - {error.strerror}"
        raise Died(words, error.errno or 255) from None
    os.replace(draft, f"{tasks}/active")


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return [line for line in file.read().splitlines() if line]
    except FileNotFoundError:
        return []


def _lives(upid: str) -> bool:
    _, _, pid, ticks, *_ = upid.split(":")
    try:
        fields = _fields(int(pid, 16))
    except OSError:
        return False
    return int(fields[19]) == int(ticks, 16) and fields[0] != "Z"


def start_ticks(pid: int) -> int:
    """Return the start time of a process, in clock ticks (proc(5), field 22)."""
    return int(_fields(pid)[19])


def _fields(pid: int) -> list[str]:
    """Return a process's state and the later fields of its stat."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()
