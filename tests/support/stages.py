"""Holds a job in one of its stages by an event, never by a guess about time.

A hold is a generator of three steps: set a trap, wait until the job is in it, and release the job.
"""

import json
import os
import select
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from breakglass.agents.pve.forensics.evidence import Evidence
from breakglass.agents.pve.host.paths import read_small_file
from breakglass.agents.pve.host.process import read_process
from breakglass.demo.proxmox.guest import connect_monitor
from breakglass.demo.proxmox.world import VMID, World

from .agent import agent_processes, processes, set_constants

Hold = Callable[[World, str], Iterator[None]]
SECONDS = 60


def memory(world: World, *parts: str) -> Path:
    return world.root.joinpath("run/breakglass", str(VMID), *parts)


def lose_run(world: World) -> None:
    """Remove the jobs from the host's /run at once, as a boot does, even while a process writes there."""
    with tempfile.TemporaryDirectory(dir=world.directory, ignore_cleanup_errors=True) as away:
        (world.root / "run/breakglass").rename(f"{away}/run")


def archive_note(world: World) -> str:
    """Return the note about the archive in /run, which is empty before the first job is copied."""
    path = memory(world, "archive.json")
    return path.read_text() if path.exists() else ""


def until(
    seen: Callable[[], object], what: str | Callable[[], str] = "what the test waits for", seconds: float = 120
) -> None:
    """Return once `seen()` is true. A job writes its own stage to a file, so reading that is an event."""
    end, pause = time.monotonic() + seconds, 0.002
    while not seen():
        assert time.monotonic() < end, f"{what() if callable(what) else what} did not happen"
        time.sleep(pause)
        pause = min(2 * pause, 0.02)  # many of these looks read all of /proc, which other tests then wait for


def await_agents(world: World) -> None:
    """Return once no host agent process is left, because a job logs its end and cleans up after its answer."""
    until(lambda: not agent_processes(world), "the end of the host agent's processes")


def forget_proofs(world: World) -> None:
    """Make the host look never proven, even if an earlier test's proof is still being copied."""
    await_agents(world)
    for path in (world.root / "run/breakglass/proven.json", world.root / "var/lib/breakglass/proven.json"):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def writer_of(fifo: Path) -> int:
    """Return the writing end of a FIFO once a process reads it. The reader then waits until this end is closed."""
    found: list[int] = []

    def is_read() -> bool:
        try:
            found.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    until(is_read, f"a look at {fifo.name}")
    return found[0]


def stage(world: World, job_id: str) -> str:
    path = memory(world, "jobs", job_id, "stage")
    return path.read_text().partition(" ")[0] if path.exists() else ""


def await_pause(world: World, job_id: str) -> None:
    """Return once a process of a job waits for its next look at something, or once the job has ended."""

    def is_over() -> bool:
        waits = [read_small_file(f"/proc/{pid}/wchan") for pid in processes(world, job_id)]
        return not waits or "hrtimer_nanosleep" in waits

    until(memory(world, "jobs", job_id, "request.json").exists, "the job")
    until(is_over, "a pause")


def recorded_command(world: World, job_id: str) -> int:
    """Return the pid of a job's running `qm` once the job has recorded it, which may be after `qm` has started.

    With `*` as the id, it may be any job.
    """
    found = [0]

    def is_recorded() -> bool:
        for path in memory(world, "jobs").glob(f"{job_id}/command"):
            found[0] = found[0] or read_process(str(path))
        return found[0] != 0

    until(is_recorded, "the record of a running qm")
    return found[0]


def at_qm(verb: str, job: str = "") -> Hold:
    """Hold a job whose `qm VERB` has begun. The stand-in reports its start and waits for a line.

    Continues once the job has recorded its `qm stop` or `qm start`, by which other processes find it after a kill.
    `job` is `*` if its id is not known. Then the id that is given to the hold is only a name.
    """

    def hold(world: World, job_id: str) -> Iterator[None]:
        qm, real = world.bin / "qm", world.bin / "real-qm"
        here, gate = world.directory / f"here-{job_id}", world.directory / f"gate-{job_id}"
        for fifo in (here, gate):
            os.mkfifo(fifo)
        arrivals, opener = (os.open(fifo, os.O_RDWR) for fifo in (here, gate))
        if not real.exists():
            qm.rename(real)
        held = f'[ "$1" != {verb} ] || {{ echo here > {here}; read -r go < {gate}; }}'
        qm.write_text(f'#!/bin/sh\n[ ! -p {gate} ] || {held}\nexec {real} "$@"\n')
        qm.chmod(0o755)
        try:
            yield
            assert select.select([arrivals], [], [], SECONDS)[0], f"qm {verb} was not called"
            if verb in ("stop", "start"):
                recorded_command(world, job or job_id)
            yield
        finally:  # even after a failed test, because the next test's `qm` would otherwise wait here for ever
            for fifo in (here, gate):
                fifo.unlink()
            os.write(opener, b"go\n" * 8)
        yield
        os.close(arrivals)
        os.close(opener)

    return hold


def in_evidence(world: World, job_id: str) -> Iterator[None]:
    """Hold a verb in its evidence, where it reads the cluster's members from a FIFO. Its time limit is long."""
    sound = world.agent.read_text()
    set_constants(world, SHORT_CLUSTER_SECONDS=30.0)
    members = world.root / "etc/pve/.members"
    os.mkfifo(members)
    yield
    held = writer_of(members)
    yield
    world.agent.write_text(sound)
    members.unlink()
    os.close(held)
    yield


def in_verify_after_start(world: World, job_id: str) -> Iterator[None]:
    """Hold a cycle whose new QEMU is not running yet, because it waits (-S) for a `cont`."""
    old, command = world.pid, world.root / "vm.json"
    sound = command.read_text()
    command.write_text(json.dumps([*json.loads(sound), "-S"]))
    yield
    until(lambda: world.pid not in (None, old) and stage(world, job_id) == "verify", "verify")
    yield
    command.write_text(sound)
    world.monitor("cont")
    yield


# --- reset ---------------------------------------------------------------------------------------------------------


def in_preflight_of_reset(world: World, job_id: str) -> Iterator[None]:
    """Hold a reset that reads the VM's configuration from a FIFO that does not end.

    The job has read it once before, for the VM's name, and gets an empty one there.
    """
    conf = world.root / f"etc/pve/nodes/demo/qemu-server/{VMID}.conf"
    sound, second = conf.with_suffix(".sound"), conf.with_suffix(".second")
    conf.rename(sound)
    os.mkfifo(conf)
    yield
    first = writer_of(conf)
    os.mkfifo(second)
    second.rename(conf)
    os.close(first)
    held = writer_of(conf)
    yield
    sound.rename(conf)
    os.close(held)
    yield


def seen_a_moment_ago(world: World) -> None:
    """Take evidence of this QEMU, so that the next verb need not take its own."""
    note = {"job": "a-moment-ago", "boottime": time.clock_gettime(time.CLOCK_BOOTTIME), "pid": world.pid}
    capture = memory(world, "jobs/a-moment-ago")
    capture.mkdir(parents=True, exist_ok=True)
    seen = Evidence("running", seconds=2.0).as_json()  # the two samples must be far enough apart to count
    (capture / "evidence.json").write_text(json.dumps({"evidence": seen}))
    memory(world, "evidence.json").write_text(json.dumps(note))


def monitor(world: World) -> socket.socket:
    """Wait in the queue for QEMU's first monitor, which serves one client at a time."""
    return connect_monitor(world.root / f"run/qemu-server/{VMID}.qmp", SECONDS)


def queued(world: World) -> int:
    """Return the length of that queue. Connections that are not accepted have no inode yet (/proc/net/unix)."""
    path = str(world.root / f"run/qemu-server/{VMID}.qmp")
    entries = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return sum(entry[-1] == path and entry[6] == "0" for entry in entries)


def in_reset(world: World, job_id: str) -> Iterator[None]:
    """Hold a reset that waits for the monitor, because another client has it from the preflight on."""
    seen_a_moment_ago(world)
    before = in_preflight_of_reset(world, job_id)
    next(before)
    yield
    next(before)
    with monitor(world) as other:
        other.recv(65536)  # the greeting came, so the monitor is ours
        next(before)
        until(lambda: stage(world, job_id) == "reset" and queued(world), "reset")
        yield
    yield


def in_verify_of_reset(world: World, job_id: str) -> Iterator[None]:
    """Hold a reset after it was sent. The next client in the monitor's queue has the monitor then."""
    before = in_reset(world, job_id)
    next(before)
    yield
    next(before)
    with monitor(world) as behind:
        next(before)
        behind.recv(65536)  # the greeting came, so the reset's own conversation has ended
        until(lambda: stage(world, job_id) == "verify", "verify")
        yield
    yield


CYCLE: dict[str, Hold] = {
    "preflight": at_qm("showcmd"),
    "forensics": in_evidence,
    "stop": at_qm("stop"),
    "start": at_qm("start"),
    "verify": in_verify_after_start,
}
RESET: dict[str, Hold] = {
    "preflight": in_preflight_of_reset,
    "forensics": in_evidence,
    "reset": in_reset,
    "verify": in_verify_of_reset,
}
