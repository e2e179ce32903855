"""Hosts that are full, read-only, hung, badly set up or have a wrong time. The verb works, and says what it lacked."""

import json
import time

import pytest

from breakglass.agents.pve.jobs.mutex import PART_BYTES, RESERVE_BYTES, free_part
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, agent_processes, execute, set_constants
from ..support.chain import chain_files, read_links
from ..support.full import fill, small_disk
from ..support.hung import unserved_fuse
from ..support.qemu import Witness
from ..support.stages import archive_note, until

pytestmark = [pytest.mark.real("qemu", "root"), pytest.mark.slow]


def archived(world: World) -> set[str]:
    return {path.parent.name for path in (world.root / "var/lib").glob("breakglass/*/jobs/*/result.json")}


# --- /var/lib ---


@pytest.mark.all
@pytest.mark.real("mounts")
def test_an_archive_that_cannot_be_written(world: World) -> None:
    """A reset acts once for each id, and says what is missing. Once the disk has room, nothing is missing."""
    with small_disk(world.root / "var/lib") as disk:
        fill(disk)
        with Witness(world) as qemu:
            assert execute(world, "reset id=unwritten-1").code == 0
            assert qemu.wait("RESET")["guest"] is False
        until(lambda: "error" in archive_note(world), "a note of the failure")
        answer = execute(world, "reset id=unwritten-2")
        [sentence] = answer.trailer["warnings"]
        trouble = "can't be written (No space left on device)"
        assert (answer.code, trouble in sentence) == (0, True)
        history = execute(world, "history").trailer
        assert [job["id"] for job in history["jobs"]] == ["unwritten-2", "unwritten-1"]
        assert history["warnings"] == [sentence]
        assert execute(world, "reset id=unwritten-1").trailer["attached"] is True
        begun = [link for link in read_links(chain_files(world)[0]) if link["event"] == "begins"]
        assert trouble in begun[1]["archive"]
        (disk / "filler").unlink()
        execute(world, "reset id=unwritten-3")
        until(lambda: archived(world) >= {"unwritten-1", "unwritten-2", "unwritten-3"}, "the copies")
        until(lambda: archive_note(world) == "{}", "the end of the trouble")


@pytest.mark.all
@pytest.mark.real("fuse")
def test_an_archive_that_hangs(world: World) -> None:
    """No verb is delayed, the answers report the hang, and however many verbs follow, only one process hangs."""
    set_constants(world, SLOW_SECONDS=2.0)
    with unserved_fuse(world.root / "var/lib"):
        first = execute(world, "reset id=unheard-0")
        assert (first.code, first.trailer["seconds"] < 30) == (0, True)
        until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) > noted_since(world) + 2, "two seconds of silence")
        until(lambda: len(agent_processes(world)) == 2, "the end of all but the two that hang")
        hanging = agent_processes(world)
        for number in range(1, 4):
            answer = execute(world, f"reset id=unheard-{number}")
            assert (answer.code, answer.trailer["state"]) == (0, "running")
            assert "has not answered" in answer.trailer["warnings"][0]
        history = execute(world, "history").trailer
        assert len(history["jobs"]) == 4
        assert "since the last boot" in history["warnings"][1]
        unknown = execute(world, "job id=no-such-job").trailer["verdict"]
        assert (unknown["code"], "gave no answer" in unknown["sentence"]) == ("job-unknown", True)
        until(lambda: agent_processes(world) == hanging, "the end of the others")


def noted_since(world: World) -> float:
    return float(json.loads(archive_note(world))["since"])


# --- the rest of the machine ---


@pytest.mark.real("mounts")
def test_a_full_run_stops_no_vm_of_the_host(world: World) -> None:
    """One reserve serves all VMs, although the test takes its rest after each verb. Later it is refilled.

    Each verb acts once.
    """
    place = world.root / "run/breakglass"
    with small_disk(place, "4m"), Session(world, world.forced_command("--vms", "all")) as session:
        assert session.ask("ping")["records"] is True
        [reserve] = place.rglob("reserve")
        assert reserve.stat().st_blocks * 512 == reserve.stat().st_size == RESERVE_BYTES
        fill(place)
        assert session.ask("ping")["records"] is False
        free_part(str(world.root))  # as a job without records does; no ping undoes that
        assert session.ask("ping")["records"] is True
        assert reserve.stat().st_size == RESERVE_BYTES - PART_BYTES
        fill(place)
        for vmid in (201, 202, 203):  # each job finds that its VM is not on this host
            verb = f"reset vm={vmid} id=no-room-{vmid}"
            answers = [session.ask(verb) for _ in range(2)]
            assert [(answer["exit_code"], answer["attached"]) for answer in answers] == [(12, False), (12, True)]
            fill(place)
        with Witness(world) as qemu:
            assert session.ask(f"reset vm={VMID} id=no-room-102", 60)["outcome"] == "done"
            assert qemu.wait("RESET")["guest"] is False
            again = session.ask(f"reset vm={VMID} id=no-room-102", 60)
            assert (again["attached"], qemu.seen("RESET")) == (True, False)
        assert reserve.stat().st_size < RESERVE_BYTES
        (place / "filler").unlink()
        session.ask("ping")
        assert reserve.stat().st_blocks * 512 == RESERVE_BYTES


@pytest.mark.all
def test_a_clock_that_is_wrong_and_jumps(world: World) -> None:
    """The clock says 2039 and then 1970. Ids, fresh captures and the order of jobs use the time since boot instead."""
    set_constants(world, clock_at(2_200_000_000), SAMPLES_APART=0.4, WATCHED_SECONDS=0.3)
    assert execute(world, "reset id=in-the-future").trailer["started"].startswith("2039-")
    assert execute(world, "forensics id=capture-then").code == 0
    set_constants(world, clock_at(0))
    again = execute(world, "reset id=in-the-future").trailer
    assert (again["attached"], again["outcome"]) == (True, "done")
    assert execute(world, "forensics id=capture-now fresh=600").trailer["job"] == "capture-then"
    assert "forensics: using" in execute(world, "reset id=in-the-past last=in-the-future").stdout
    history = execute(world, "history").trailer["jobs"]
    assert [job["id"] for job in history] == ["in-the-past", "capture-then", "in-the-future"]
    assert history[0]["started"].startswith("1970-")


def clock_at(seconds: int) -> str:
    """Return the code of an agent on a host whose clock has stopped at this time in seconds."""
    clock = f"import time\ntime.time = lambda: {seconds}\ntime.true = getattr(time, 'true', time.gmtime)\n"
    return f"{clock}time.gmtime = lambda when=None: time.true({seconds} if when is None else when)"
