"""What a turn runs as: a user id of its own, and a cgroup with limits. Standard library only, for the runner."""

import errno
import fcntl
import os
import time
from contextlib import suppress

from .homes import DIRECTORY, empty_directory, open_directory
from .processes import has_processes, run_as

# --- A cgroup for a turn: limits for all of it together, and one end. Standard library only, for the runner ---
#
# It is made where a service manager has delegated a cgroup to the handler, see cgroups(7) and "Delegate=" of systemd:
# a cgroup above this process's own one, which is marked as delegated. Elsewhere a turn has none.

_MARKS = ("user.delegate", "trusted.delegate")  # what systemd sets; it may be one of them alone
_LIMITS = {"pids": {"pids.max": 256}, "memory": {"memory.max": 4 << 30, "memory.swap.max": 0}}  # by the controller
_KILL_SECONDS = 1.0


def make_cgroup(uid: int) -> str:
    """Return the new cgroup of a turn, by the number of its user, or "" where none is delegated.

    The caller has that number's lock. What a turn that was killed has left of it goes first.
    """
    try:
        parent = _find_delegated()
        if not parent:
            return ""
        controllers = [name for name in _read(f"{parent}/cgroup.controllers").split() if name in _LIMITS]
        _write(f"{parent}/cgroup.subtree_control", " ".join(f"+{name}" for name in controllers))
        group = f"{parent}/turn-{uid}"
        if os.path.isdir(group):
            remove_cgroup(group)
        os.mkdir(group)
        for controller in controllers:
            for name, value in _LIMITS[controller].items():
                if os.path.exists(f"{group}/{name}"):  # a kernel may count no swap
                    _write(f"{group}/{name}", str(value))
    except OSError:  # not delegated as the runbook says
        return ""
    return group


def enter_cgroup(group: str) -> None:
    """Move this process, and what it starts, into the cgroup of a turn, if it has one. Raises OSError."""
    if group:
        _write(f"{group}/cgroup.procs", "0")


def kill_cgroup(group: str) -> None:
    """Kill every process in the cgroup of a turn, if it has one and the kernel can do that."""
    if group:
        with suppress(OSError):
            _write(f"{group}/cgroup.kill", "1")


def remove_cgroup(group: str) -> None:
    """Kill every process in the cgroup of a turn, if it has one, and remove it. Raises OSError."""
    if not group:
        return
    kill_cgroup(group)
    until = time.monotonic() + _KILL_SECONDS
    while "populated 1" in _read(f"{group}/cgroup.events") and time.monotonic() < until:
        time.sleep(0.01)
    os.rmdir(group)


def _find_delegated() -> str:
    """Return the directory of the delegated cgroup above this process's own, or ""."""
    own = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    mounts = (line.split() for line in _read("/proc/self/mounts").splitlines())
    top = next((fields[1] for fields in mounts if fields[2] == "cgroup2"), "")
    parent = f"{top}{os.path.dirname(own)}"
    if not top or own == "/":
        return ""
    for mark in _MARKS:
        try:
            if os.getxattr(parent, mark) == b"1":
                return parent
        except OSError:
            continue
    return ""


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


# --- Takes a user id for one turn, and makes claude's directories that user's. Standard library only, for the runner.
#
# This is what needs root. The id is locked by a file in `uids/` of sessions.dir for as long as a descriptor is open,
# so neither two handlers nor two replicas use one at the same time. Such a user owns nothing in sessions.dir but the
# directories HANDED of its turns. An id of which a process or such a directory is left is not used before that is
# gone.

HANDED = ("home", "scraps")  # in the directory of a turn
LOWEST = 1000  # the ids below it are the system's
REMOVAL_SECONDS = 3.0


class NoFreeUid(Exception):
    """Each id of the range has a turn, or a process or files that could not be removed."""


def claim_uid(uids: range, sessions: str) -> tuple[int, int]:
    """Return an id that no turn has, and the descriptor that locks it. Raises NoFreeUid, OSError."""
    try:
        os.mkdir(f"{sessions}/uids", 0o700)
    except FileExistsError:
        pass
    left, first = _list_handed(sessions), os.getpid() % len(uids)  # not the one that the last turn had
    until = time.monotonic() + REMOVAL_SECONDS
    for uid in sorted((*uids[first:], *uids[:first]), key=lambda uid: uid in left):
        lock = _lock(sessions, uid, os.O_CREAT)
        if lock is not None:
            if not has_processes(uid) and remove_handed(sessions, uid, until):
                return uid, lock
            os.close(lock)
    raise NoFreeUid(f"none of the {len(uids)} user ids in chat.uids is free")


def hand_over(directory: str, owner: int, uid: int) -> None:
    """Make the directories HANDED of a turn belong to a user. Raises OSError unless they belong to `owner`."""
    turn = open_directory(directory)
    try:
        for name in HANDED:
            fd = os.open(name, DIRECTORY, dir_fd=turn)
            try:
                if os.fstat(fd).st_uid != owner:
                    raise PermissionError(errno.EPERM, "belongs to another user", f"{directory}/{name}")
                os.fchown(fd, uid, uid)
            finally:
                os.close(fd)
    finally:
        os.close(turn)


def remove_handed(sessions: str, uid: int, until: float) -> bool:
    """Remove the directories that belong to the user of a turn, with that user's rights; tell whether all are gone."""
    found = _list_handed(sessions).get(uid, [])
    if not found:
        return True
    run_as(uid, lambda: _empty_all(found, until), until)
    for path in found:
        try:
            os.rmdir(path)  # which needs the rights of the one who owns the turn's directory
        except OSError:
            pass
    return not _list_handed(sessions).get(uid)


def remove_left_over(sessions: str, until: float) -> None:
    """Remove what users of ended turns have left, because there was no time for it, or because a machine crashed."""
    for uid in _list_handed(sessions):
        try:
            lock = _lock(sessions, uid, 0) if uid >= LOWEST else None
        except FileNotFoundError:  # no turn's
            continue
        if lock is not None:
            remove_handed(sessions, uid, until)
            os.close(lock)


def _empty_all(paths: list[str], until: float) -> None:
    for path in paths:
        try:
            empty_directory(path, until)
        except OSError:  # the next one may be empty
            pass


def _list_handed(sessions: str) -> dict[int, list[str]]:
    """Return the directories HANDED of all turns, by their owner."""
    found: dict[int, list[str]] = {}
    for turn in os.listdir(f"{sessions}/work"):
        for name in HANDED:
            path = os.path.join(sessions, "work", turn, name)
            try:
                found.setdefault(os.lstat(path).st_uid, []).append(path)
            except OSError:
                pass
    return found


def _lock(sessions: str, uid: int, flags: int) -> int | None:
    """Return the descriptor that locks an id, or None when a turn has it. Raises OSError."""
    locks = open_directory(sessions, "uids")
    try:
        if os.fstat(locks).st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "belongs to another user", f"{sessions}/uids")
        fd = os.open(str(uid), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600, dir_fd=locks)
    finally:
        os.close(locks)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd
