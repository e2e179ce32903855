"""The task that owns a VM's `lock:`, and the process that holds its lock file.

It uses two sources that can't contradict each other: the processes in /proc, whose names PVE sets to `task UPID:…`, and
the task index, whose UPIDs name processes by pid and start time. An owner is called dead only when both could be read
and neither knows it. This module removes no lock.
"""

import os
import re
from dataclasses import dataclass
from functools import partial

from .bounded import ask_or_none
from .paths import Host, read_small_file
from .process import each_process, process_ticks

TASK_SECONDS = 1.5
INDEX_BYTES = 256 * 1024
NAME_CHARS = 200  # the most of a command line that is shown

# The tasks that set each kind of lock (qemu-server, API2/Qemu.pm; VZDump). `suspended` is a state and has no task.
_TASKS = {
    "backup": ("vzdump",),
    "clone": ("qmclone",),
    "create": ("qmcreate", "qmrestore", "qmclone"),
    "migrate": ("qmigrate", "hamigrate"),
    "rollback": ("qmrollback",),
    "snapshot": ("qmsnapshot",),
    "snapshot-delete": ("qmdelsnapshot",),
    "suspending": ("qmsuspend",),
}
# The task of such a lock may run on another node or have another VM's number, so its absence here proves nothing.
_FROM_ELSEWHERE = ("migrate", "clone", "create")

_UPID = re.compile(
    r"UPID:(?P<node>[A-Za-z0-9-]+):(?P<pid>[0-9A-Fa-f]{8,9}):(?P<ticks>[0-9A-Fa-f]{8,16}):(?P<start>[0-9A-Fa-f]{8}):"
    r"(?P<type>[^:\s]+):(?P<id>[^:\s]*):(?P<user>[^:\s]+):"
)


@dataclass(frozen=True)
class Task:
    """One task of PVE, by its UPID; `end` is the end that its index line reports."""

    upid: str
    type: str
    id: str
    user: str
    pid: int
    ticks: int
    end: str = ""

    def __str__(self) -> str:
        return f"{self.type}{f' of VM {self.id}' if self.id else ''} by {self.user}, process {self.pid}"


@dataclass(frozen=True)
class Owner:
    """The owner of a `lock:`; `alive` tells whether its task still runs, None where that is not known."""

    alive: bool | None
    lines: tuple[str, ...] = ()


def parse_task(line: str) -> Task | None:
    """Return the task whose UPID is in a line; the rest of the line is its end (hexadecimal time and status)."""
    found = _UPID.search(line)
    if found is None:
        return None
    end = re.sub(r"^\s*(?:[01]\b)?\s*(?:[0-9A-Fa-f]{8}\b)?\s*", "", line[found.end() :]).strip()
    numbers = int(found["pid"], 16), int(found["ticks"], 16)
    return Task(found[0], found["type"], found["id"], found["user"], *numbers, end)


def find_lock_owner(host: Host, lock: str) -> Owner:
    """Return the owner of the VM's `lock:`; takes 2 * TASK_SECONDS at most."""
    if lock == "suspended":
        return Owner(None, ("lock: suspended needs no task: the VM's memory is on disk, and a start resumes it",))
    working = ask_or_none(lambda: _task_names(host), TASK_SECONDS)
    names = working or []
    lines = ask_or_none(lambda: read_index(host), TASK_SECONDS) or []
    tasks = [task for line in (*names, *lines) if (task := parse_task(line)) and _owns(task, lock, host.vmid)]
    for task in tasks:
        if process_ticks(task.pid) == task.ticks:
            path = f"/nodes/{task.upid.split(':')[1]}/tasks/{task.upid}"
            return Owner(True, (f"{task} works on it", f"by hand: wait, or pvesh delete {path}"))
    vzdump = next((name for name in names if name and parse_task(name) is None), "") if lock == "backup" else ""
    if vzdump:
        return Owner(True, (f"vzdump works on this host: {vzdump[:NAME_CHARS]}", "by hand: wait, or vzdump --stop"))
    ends = tuple(f"the last such task, {task}, is gone: {task.end or 'result unknown'}" for task in tasks[-1:])
    if working is None or not lines or lock in _FROM_ELSEWHERE:
        half = "the task may still run on the target node, so look there too" if ends and lock == "migrate" else ""
        return Owner(None, (*ends, half or "this node could not tell whether its task still runs"))
    cure = f"by hand: qm unlock {host.vmid}, because no process is left that could release the lock"
    return Owner(False, (*(ends or ("no such task runs on this node, and the task index has none",)), cure))


def _owns(task: Task, lock: str, vmid: int) -> bool:
    if task.type not in _TASKS.get(lock, (task.type,)):
        return False
    return task.id == str(vmid) or (not task.id and lock == "backup") or lock in ("clone", "create")


def _task_names(host: Host) -> list[str]:
    """Return the command lines of PVE's tasks and of vzdump, selected by short names, which never block."""
    return [
        _read_command_line(host, pid) for pid, name, _ in each_process() if name.startswith(("task UPID", "vzdump"))
    ]


def _read_command_line(host: Host, pid: int) -> str:
    """Return a process's command line, empty where it can't be read; may block."""
    return read_small_file(host.proc(pid, "cmdline"), 4096).replace("\0", " ").strip()


def read_index(host: Host) -> list[str]:
    """Return the lines of the task index, oldest first each task once.

    `index` has the tasks that ended, oldest first. `active` is newest first and repeats tasks that have ended, so only
    tasks that `index` lacks are added.
    """
    ended = _read_last_lines(host.path("/var/log/pve/tasks/index"))
    known = {task.upid for line in ended if (task := parse_task(line))}
    running = reversed(_read_last_lines(host.path("/var/log/pve/tasks/active")))
    return [*ended, *(line for line in running if (task := parse_task(line)) and task.upid not in known)]


def _read_last_lines(path: str) -> list[str]:
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - INDEX_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []


@dataclass(frozen=True)
class Holder:
    """A process that holds the VM's lock file, by pid and command line."""

    pid: int
    command: str

    @property
    def kind(self) -> str:
        """The holder's action: `stop`, `shutdown` (a reboot too), `start`, `cleanup`, or empty."""
        task = parse_task(self.command)
        word = task.type if task else next(iter(re.findall(r"\b([a-z]+) [1-9][0-9]*\b", self.command)), "")
        return _KINDS.get(word.removeprefix("qm"), "")

    def __str__(self) -> str:
        return f"{self.pid} ({self.command[:NAME_CHARS] or 'no name'})"


_KINDS = {"stop": "stop", "shutdown": "shutdown", "reboot": "shutdown", "start": "start", "cleanup": "cleanup"}


def flock_holders(host: Host) -> list[Holder]:
    """Return the processes that hold the VM's lock file, as a running `qm start` or `qm stop` does for its whole life.

    /var/lock is a tmpfs and /proc/locks never blocks; a child reads them anyway.
    """
    pids = ask_or_none(lambda: _flock_pids(host), TASK_SECONDS) or []
    return [Holder(pid, ask_or_none(partial(_read_command_line, host, pid), TASK_SECONDS / 3) or "") for pid in pids]


def is_qm_at_work(host: Host) -> bool:
    """Tell whether a `qm` starts or stops the VM now. It may block, so ask it in a child."""
    return any(Holder(pid, _read_command_line(host, pid)).kind in ("start", "stop") for pid in _flock_pids(host))


def cleanup_pids(host: Host) -> list[int]:
    """Return the pids of this VM's `qm cleanup`, which qmeventd starts whenever a QEMU ends."""
    return ask_or_none(lambda: _cleanup_pids(host), TASK_SECONDS) or []


def _cleanup_pids(host: Host) -> list[int]:
    words = f" cleanup {host.vmid} "
    return [pid for pid, name, _ in each_process() if name == "qm" and words in f"{_read_command_line(host, pid)} "]


def _flock_pids(host: Host) -> list[int]:
    try:
        lock_file = os.stat(host.path(f"/var/lock/qemu-server/lock-{host.vmid}.conf"))
        with open(host.path("/proc/locks"), encoding="ascii", errors="replace") as file:
            locks = [line.split() for line in file]
    except OSError:
        return []
    name = f"{os.major(lock_file.st_dev):02x}:{os.minor(lock_file.st_dev):02x}:{lock_file.st_ino}"
    return [int(words[4]) for words in locks if name in words and "->" not in words]
