"""Reads the kernel's view of the processes that answer HTTP."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LISTENING = "0A"


def answering(port: int) -> list[int]:
    """Return every process that has the socket of a listening loopback port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if int(row[1].rpartition(":")[2], 16) == port and row[3] == LISTENING}
    names = {f"socket:[{inode}]" for inode in inodes}
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if not names.isdisjoint(files_of(pid))]


def files_of(pid: int) -> Iterator[str]:
    """Yield the file of each descriptor of a process. Yields nothing if it has ended or this user may not look."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for descriptor in descriptors:
        with suppress(OSError):  # the descriptor has just been closed
            yield os.readlink(f"/proc/{pid}/fd/{descriptor}")


def status_of(pid: int) -> dict[str, list[str]]:
    """Return the fields of a process's status (proc_pid_status(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def assert_unprivileged(port: int) -> int:
    """Fail unless the one process that answers HTTP has given up root for good; return it."""
    [pid] = answering(port)
    status = status_of(pid)
    assert len(set(status["Uid"])) == 1
    assert status["Uid"][0] != "0"
    assert "0" not in status["Gid"] + status["Groups"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(status[name][0], 16) == 0, name
    assert status["NoNewPrivs"] == ["1"]
    return pid
