"""Changes while a verb takes its evidence, or while `qm stop` fails: a lost quorum, a backup that begins."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from breakglass.agents.pve.words import DEADLINES
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, execute, processes, set_constants
from ..support.chain import links_of
from ..support.failing_tools import misbehave
from ..support.pve_host import lock, no_quorum, task, task_index
from ..support.selection import sampled
from ..support.signals import signal_process
from ..support.stages import Hold, at_qm, in_evidence, memory, recorded_command, until

pytestmark = pytest.mark.usefixtures("own_tasks")
Change = Callable[[World], object]


def backup_begins(world: World) -> None:
    lock(world, "backup")


def snapshot_begins(world: World) -> None:
    lock(world, "snapshot")
    world.monitor("stop")


def held_and_changed(world: World, line: str, hold: Hold, change: Change) -> dict[str, Any]:
    """Hold a verb in a stage, change the host, and let it continue; return its result."""
    job_id = "changed-meanwhile"
    held = hold(world, job_id)
    next(held)
    with Session(world) as session:
        tag = session.send(f"{line} id={job_id}")
        next(held)
        change(world)
        next(held)
        result = session.result(tag, 60)
    next(held, None)
    return result


def ends_by_itself(world: World) -> None:
    world.monitor("quit")
    until(lambda: world.pid is None, "the end of QEMU")


def starts_by_hand(world: World) -> None:
    assert world.qm("start", str(VMID)).returncode == 0


@pytest.mark.all
@pytest.mark.parametrize(
    ("verb", "change", "says", "stage"),
    [("stop", ends_by_itself, "runs any more", "stop"), ("start", starts_by_hand, "started already", "verify")],
)
def test_what_another_has_done_meanwhile_is_not_done_again(
    world: World, verb: str, change: Change, says: str, stage: str
) -> None:
    if verb == "start":
        assert world.qm("stop", str(VMID)).returncode == 0
    result = held_and_changed(world, verb, in_evidence, change)
    assert (result["outcome"], result["stage"], world.pid is None) == ("done", stage, verb == "stop")
    assert says in memory(world, "jobs/changed-meanwhile/output").read_text()


LOST, BACKUP = ("cycle", no_quorum, "no-quorum"), ("stop", backup_begins, "locked")
CHANGES = [LOST, BACKUP, ("cycle", backup_begins, "locked")]
AT = [(outcome, *row) for outcome in ("refused", "failed") for row in CHANGES]


@pytest.mark.parametrize(
    ("outcome", "verb", "change", "code"),
    sampled([*AT, ("refused", "reset", snapshot_begins, "locked")], ("refused", *LOST), ("failed", *BACKUP)),
)
def test_what_changes_meanwhile_decides(world: World, outcome: str, verb: str, change: Change, code: str) -> None:
    """The verb looks again after its evidence, and after a `qm stop` that fails. The VM does not change.

    So no QEMU is killed under a backup or before an impossible start. A snapshot pauses the guest to save its memory,
    so there is no reset and no cont.
    """
    before, kind = world.pid, "qmsnapshot" if change is snapshot_begins else "vzdump"

    def changes(world: World) -> None:
        change(world)
        if outcome == "failed":
            misbehave(world.root, mode="stop-fails")

    with task(f"{kind}:{VMID}") as upid:
        task_index(world, f"{upid} 0")
        result = held_and_changed(world, verb, at_qm("stop") if outcome == "failed" else in_evidence, changes)
    state = "paused" if change is snapshot_begins else "running"
    assert (result["outcome"], result["verdict"]["code"], result["state"]) == (outcome, code, state)
    assert world.pid == before


@pytest.mark.all
def test_a_stop_of_somebody_else_that_hangs_is_named_and_the_vm_left_alone(world: World) -> None:
    """The stop holds the lock file for ever, as with a hook script that hangs. No start could follow, so QEMU lives."""
    before = world.pid
    set_constants(world, DEADLINES=DEADLINES | {"cycle": 30.0})
    path = world.root / f"var/lock/qemu-server/lock-{VMID}.conf"
    path.parent.mkdir(parents=True, exist_ok=True)
    holds = f"import fcntl; f = open({str(path)!r}, 'w'); fcntl.flock(f, 2); print('up', flush=True); input()"
    with task(f"qmstop:{VMID}", holds) as upid:
        answer = execute(world, "cycle")
    verdict = answer.trailer["verdict"]
    assert (answer.code, verdict["code"], verdict["advice"]) == (13, "locked", "")
    assert any(upid in line for line in verdict["evidence"])
    assert world.pid == before


def leave_the_second(world: World, session: Session, held: Iterator[None], job_id: str) -> tuple[str, int]:
    """Begin a cycle, kill its first process in the start, and pause its second. Return the request's tag and a pid."""
    tag = session.send(f"cycle id={job_id}")
    next(held)
    command = recorded_command(world, job_id)
    second, first = processes(world, job_id)
    signal_process(second, signal.SIGSTOP)
    signal_process(first, signal.SIGKILL)
    signal_process(command, signal.SIGKILL)
    until(lambda: processes(world, job_id) == [second], "the end of the first process")
    return tag, second


def test_a_process_that_stands_by_and_comes_late_undoes_nothing(world: World) -> None:
    """If a cycle's second process continues late, it does not start a VM that a person has since stopped."""
    job_id = "comes-too-late"
    held = at_qm("start")(world, job_id)
    next(held)
    with Session(world) as session:
        tag, second = leave_the_second(world, session, held, job_id)
        assert session.ask("stop id=stops-meanwhile", 60)["state"] == "stopped"
        until(lambda: not processes(world, "stops-meanwhile"), "the end of the stop, and so of its lock")
        next(held)
        signal_process(second, signal.SIGCONT)
        result = session.result(tag, 60)
        until(lambda: not processes(world, job_id), "the end of the second process")
    next(held, None)
    assert (result["verdict"]["code"], result["state"]) == ("job-killed", "stopped")
    assert world.pid is None
    chain = execute(world, "history").trailer["chain"]
    assert (links_of(world, job_id), chain["broken"], chain["notes"]) == (["begins", "ends"], "", [])


@pytest.mark.all
def test_a_process_that_stands_by_writes_no_line_without_the_lock(world: World) -> None:
    """Only the job that has the VM's lock writes into the chain."""
    job_id, other = "finds-it-locked", "locks-it-meanwhile"
    held = at_qm("start")(world, job_id)
    next(held)
    with Session(world) as session:
        tag, second = leave_the_second(world, session, held, job_id)
        next(held)
        also_held = at_qm("start")(world, other)
        next(also_held)
        other_tag = session.send(f"start id={other}")
        next(also_held)
        signal_process(second, signal.SIGCONT)
        assert session.result(tag, 60)["verdict"]["code"] == "job-killed"
        chain = session.ask("history")["chain"]
        assert (links_of(world, job_id), chain["broken"]) == (["begins"], "")
        next(also_held)
        assert session.result(other_tag, 60)["state"] == "running"
        next(also_held, None)
    next(held, None)
