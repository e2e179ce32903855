"""Ids that only point at a capture, and the inodes of /run that they use, never stop a verb."""

import os
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from breakglass.agents.pve.jobs.aliases import MOST_ALIASES
from breakglass.agents.pve.jobs.mutex import RESERVE_INODES
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, execute, set_constants
from ..support.full import small_disk
from ..support.qemu import Witness
from ..support.stages import memory

pytestmark = pytest.mark.slow

A_NOTIFICATION = 50  # ids that a handler sends for one notification
INODES = 4000  # inodes of a /run that a test fills


def aliases(world: World, vmid: int = VMID) -> list[str]:
    """Return the ids that point at another id."""
    return [path.name for path in world.root.glob(f"run/breakglass/{vmid}/jobs/*") if path.is_symlink()]


def storm(session: Session, count: int) -> str:
    """Send this many alerts, grouped in notifications as a handler groups them. Return the only job that they have."""
    jobs = set()
    for first in range(0, count, A_NOTIFICATION):
        lines = [
            f"forensics vm={VMID} id=alert-{number:08d} by=am fresh=86400 detach"
            for number in range(first, first + A_NOTIFICATION)
        ]
        answers = [session.result(tag, 60) for tag in session.send_all(lines)]
        assert {answer["exit_code"] for answer in answers} == {0}
        jobs |= {answer["job"] for answer in answers}
    [job] = jobs
    return str(job)


@pytest.mark.all
def test_a_storm_leaves_a_thousand_ids_at_most(world: World) -> None:
    """All are one capture. The newest ids stay, so a repeated notification finds it. An older id counts as new."""
    count = MOST_ALIASES + 200
    with Session(world) as session:
        capture = storm(session, count)
        assert [job["id"] for job in session.ask("history")["jobs"]] == [capture]
        assert MOST_ALIASES * 0.8 < len(aliases(world)) <= MOST_ALIASES
        newest = session.ask(f"forensics vm={VMID} id=alert-{count - 1:08d} by=am detach")
        assert (newest["job"], newest["attached"]) == (capture, True)
        assert "alert-00000001" not in aliases(world)
        oldest = session.ask(f"forensics vm={VMID} id=alert-00000001 by=am fresh=86400 detach")
        assert (oldest["job"], oldest["exit_code"]) == (capture, 0)


# --- /run without inodes ---


def few_inodes(world: World) -> AbstractContextManager[Path]:
    """Mount a /run for the records that has room for only this many files."""
    return small_disk(world.root / "run/breakglass", "16m", f"nr_inodes={INODES}")


def take_inodes(place: Path) -> None:
    """Take all inodes that are free, as any program on the host can.

    They are not counted later, because a job that cleans up may free some at any time.
    """
    other = place / "other"
    other.mkdir(exist_ok=True)
    with pytest.raises(OSError, match="No space left"):
        make_files(other, len(os.listdir(other)))


def make_files(directory: Path, number: int) -> None:
    """Make more files than the file system has inodes, from this number on."""
    for name in range(number, number + INODES + 1):
        (directory / str(name)).touch()


@pytest.mark.all
@pytest.mark.real("qemu", "root", "mounts")
def test_the_four_verbs_act_without_an_inode(world: World) -> None:
    """The reserve is enough for each verb, although the test takes the rest of it after each one."""
    with few_inodes(world) as place:
        execute(world, "ping")
        assert len(os.listdir(place / "inodes")) == RESERVE_INODES
        take_inodes(place)
        with Witness(world) as qemu:
            assert execute(world, "reset id=no-inode-reset").code == 0
            assert qemu.wait("RESET")["guest"] is False
        for verb, state in (("stop", "stopped"), ("start", "running"), ("cycle", "running")):
            take_inodes(place)
            before = world.pid
            answer = execute(world, f"{verb} id=no-inode-{verb}")
            assert (answer.code, answer.trailer["state"]) == (0, state)
            assert world.pid != before
            assert execute(world, f"{verb} id=no-inode-{verb}").trailer["attached"] is True


@pytest.mark.all
@pytest.mark.real("root", "mounts")
def test_captures_do_not_spend_the_reserve(world: World) -> None:
    """A weak token may ask for any number of captures. Each answer says that the capture could not begin."""
    set_constants(world, CLAIM_SECONDS=5.0)
    with few_inodes(world) as place, Session(world) as session:
        session.ask("ping")
        session.ask("status")
        memory(world, "jobs").mkdir(parents=True)
        take_inodes(place)
        assert session.ask("forensics id=no-inode-capture by=am", 60)["outcome"] == "failed"
        assert len(os.listdir(place / "inodes")) == RESERVE_INODES
        assert session.ask("reset id=no-inode-reset by=operator", 60)["outcome"] == "done"
