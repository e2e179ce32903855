"""Tier 0 of a capture: /proc, /sys and /run. Reading them can't hang, but a child does it anyway."""

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..host.paths import Host
from ..host.pve_tasks import flock_holders
from .leftovers import starter_pid
from .probe import Probe, Reply, ok_reply, read_files, read_text

_REMOTE = re.compile(r" (?:nfs4?|cifs|smb3|ceph|glusterfs|fuse\S*) ")


READ_SECONDS = 3.0  # none of these files hangs, but on a busy host a reader may wait for a processor


def host_probes(host: Host, pid: int | None, apart: float) -> list[Probe]:
    """Return the probes of the host and of the process `pid`."""
    return [
        Probe(0, "host", READ_SECONDS, read_files(host, "host", "/proc/uptime", "/proc/loadavg")),
        Probe(
            0,
            "pressure",
            READ_SECONDS,
            read_files(host, "pressure", *(f"/proc/pressure/{of}" for of in ("cpu", "io", "memory"))),
        ),
        Probe(0, "memory", READ_SECONDS, read_files(host, "memory", "/proc/meminfo", lines=5)),
        Probe(0, "scope", READ_SECONDS, read_files(host, "scope", *_scope_files(host))),
        *_process_probes(host, pid, apart),
        Probe(0, "waiting", READ_SECONDS, lambda _: _list_waiting(host)),
        Probe(0, "mounts", READ_SECONDS, lambda _: _list_mounts(host)),
        Probe(0, "lock file", READ_SECONDS, lambda _: _list_lock_holders(host)),
    ]


def _process_probes(host: Host, pid: int | None, apart: float) -> list[Probe]:
    if pid is None:
        return []
    names = ("stat", "status", "wchan", "io")
    return [
        Probe(0, "process", READ_SECONDS, read_files(host, "process", *(f"/proc/{pid}/{name}" for name in names))),
        thread_probe(host, pid, apart),
    ]


def thread_probe(host: Host, pid: int, apart: float) -> Probe:
    """Return the probe that samples QEMU's threads twice, `apart` seconds apart."""
    return Probe(0, "threads", apart + 2, lambda _: _watch_threads(host, pid, apart))


def _scope_files(host: Host) -> list[str]:
    names = ("cgroup.procs", "io.pressure", "memory.pressure", "io.stat", "memory.events")
    return [f"/sys/fs/cgroup/qemu.slice/{host.vmid}.scope/{name}" for name in names]


@dataclass(frozen=True)
class _Thread:
    name: str
    state: str
    switches: int


def _watch_threads(host: Host, pid: int, apart: float) -> Iterator[Reply]:
    """Sample QEMU's threads twice and find those that are stuck.

    A thread in uninterruptible sleep both times, without a context switch in between, has slept all the time, so it
    waits for the host's storage.
    """
    began = time.monotonic()
    before, ticks = _sample_threads(host, pid), _read_ticks(host, pid)
    time.sleep(apart)
    after, used = _sample_threads(host, pid), _read_ticks(host, pid) - ticks
    seconds = time.monotonic() - began
    lines = [
        f"thread {tid} ({thread.name}) waits uninterruptibly in {read_text(host, f'/proc/{pid}/task/{tid}/wchan')}"
        for tid, thread in after.items()
        if thread.state == "D"
    ]
    stuck = [line for line in lines if _is_same_sleep(before, after, int(line.split()[1]))]
    stacks = [read_text(host, f"/proc/{pid}/task/{line.split()[1]}/stack") for line in stuck[:8]]
    letters = "".join(thread.state for thread in after.values())
    cpu = used / os.sysconf("SC_CLK_TCK")
    text = "\n".join(
        [f"{len(after)} threads: {letters}", f"{cpu:.2f} s of processor in {seconds:.1f} s", *lines, *stacks]
    )
    yield ok_reply("threads", began, text, {"threads": letters, "stuck": stuck, "cpu": cpu, "seconds": seconds})


def _is_same_sleep(before: dict[int, _Thread], after: dict[int, _Thread], tid: int) -> bool:
    return tid in before and before[tid] == after[tid]


def _sample_threads(host: Host, pid: int) -> dict[int, _Thread]:
    found = {}
    for tid in sorted(int(name) for name in os.listdir(host.proc(pid, "task"))):
        try:
            with open(host.proc(pid, f"task/{tid}/status"), encoding="utf-8", errors="replace") as file:
                status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        except OSError:  # it ended meanwhile
            continue
        switches = int(status["voluntary_ctxt_switches"]) + int(status["nonvoluntary_ctxt_switches"])
        found[tid] = _Thread(status["Name"], status["State"][0], switches)
    return found


def _read_ticks(host: Host, pid: int) -> int:
    """Return the processor time that a process has used, in clock ticks (proc(5), fields 14 and 15)."""
    with open(host.proc(pid, "stat"), encoding="utf-8", errors="replace") as file:
        values = file.read().rpartition(")")[2].split()
    return int(values[11]) + int(values[12])


def _list_waiting(host: Host) -> Iterator[Reply]:
    """Name the processes of the whole host that are in uninterruptible sleep."""
    began = time.monotonic()
    found = []
    for pid in os.listdir(host.path("/proc")):
        if pid.isdigit():
            head, _, tail = read_text(host, f"/proc/{pid}/stat").rpartition(")")
            if tail.split()[:1] == ["D"]:
                found.append(f"{head}) in {read_text(host, f'/proc/{pid}/wchan')}")
    yield ok_reply("waiting", began, "\n".join([f"{len(found)} processes wait uninterruptibly", *found[:50]]))


def _list_mounts(host: Host) -> Iterator[Reply]:
    began = time.monotonic()
    mounts = [line for line in read_text(host, "/proc/mounts", 1000).splitlines() if _REMOTE.search(line)]
    yield ok_reply("mounts", began, "\n".join(mounts) or "no network or FUSE file system is mounted")


def _list_lock_holders(host: Host) -> Iterator[Reply]:
    """Name the holders of the lock file, which a running `qm start` or `qm stop` holds for its whole life."""
    began = time.monotonic()
    holders = flock_holders(host)
    owners = [f"lock-{host.vmid}.conf is held by {holder}" for holder in holders]
    facts: dict[str, object] = {"owners": owners, "starter": starter_pid(holders)}
    yield ok_reply("lock file", began, "\n".join(owners) or "no process holds the lock file", facts, "/proc/locks")
