"""A cgroup for a turn: limits for all of it together, and one end. Standard library only, for the runner.

It is made where a service manager has delegated a cgroup to the handler, see cgroups(7) and "Delegate=" of systemd: a
cgroup above this process's own one, which is marked as delegated. Elsewhere a turn has none.
"""

import os
import time
from contextlib import suppress

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
