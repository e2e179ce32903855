"""Faults that were fixed. Each of them once caused a wrong action or answer."""

import json
import signal

import pytest

from breakglass.agents.pve.words import DEADLINES
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, execute, processes, set_constants
from ..support.hung import unserved_fuse
from ..support.signals import signal_process
from ..support.sshd import descendants
from ..support.stages import at_qm, recorded_command, until

pytestmark = pytest.mark.real("sshd", "qemu")


@pytest.mark.all
def test_a_silent_reader_is_not_a_stopped_vm(world: World) -> None:
    """If a reader hangs before its first result, the state is unknown, never stopped."""
    set_constants(world, DEADLINES=DEADLINES | {"status": 10.0})
    with Session(world) as session:
        session.ask("status")
        for pid in descendants(session.process.pid):
            signal_process(pid, signal.SIGSTOP)
        result = session.ask("status")
        assert (result["exit_code"], result["state"]) == (14, "unknown")
        assert session.ask("status")["state"] == "running"


@pytest.mark.real("fuse")
def test_what_a_killed_job_left_is_looked_at_beside_the_other_requests(world: World) -> None:
    """The lock file is on a file system that hangs. Other requests are still answered."""
    set_constants(world, ALIVE_EVERY=0.0, QUESTION_SECONDS=600.0)
    job_id, hangs = "left-stop-0001", world.root / "var/lock/qemu-server"
    hangs.mkdir(parents=True, exist_ok=True)
    held = at_qm("stop")(world, job_id)
    next(held)
    with Session(world) as session:
        tag = session.send(f"stop id={job_id}")
        next(held)
        left = [*processes(world, job_id), recorded_command(world, job_id)]
        with unserved_fuse(hangs):
            for pid in left:
                signal_process(pid, signal.SIGKILL)
            until(lambda: not processes(world, job_id), "the end of the job")
            outcomes = [session.ask("history")["outcome"] for _ in range(3)]
        result = session.result(tag, 60)
        next(held)
    assert (outcomes, result["verdict"]["code"]) == (["done"] * 3, "job-killed")
    next(held, None)


def test_a_damaged_job_ends_no_session(world: World) -> None:
    """After an incomplete output line or a request of another version, the session answers and continues."""
    jobs = world.root / f"run/breakglass/{VMID}/jobs"
    with Session(world) as session:
        session.ask("start id=damaged-1 by=operator")
        (jobs / "damaged-1/output").write_text('{"stream": "stdout", "text\n')
        assert session.ask("start id=damaged-1")["outcome"] == "done"
        record = json.loads((jobs / "damaged-1/request.json").read_text())
        (jobs / "damaged-1/request.json").write_text(json.dumps(record | {"a_later_field": 1}))
        assert session.ask("history")["jobs"][0]["id"] == "damaged-1"


def test_a_qemu_that_a_job_starts_is_not_spared_by_the_oom_killer(world: World) -> None:
    """A job does not pass its own protection on to QEMU."""
    execute(world, "cycle")
    with open(f"/proc/{world.pid}/oom_score_adj", encoding="ascii") as file:
        assert int(file.read()) >= 0


def test_a_defect_in_the_capture_stops_no_rescue(world: World) -> None:
    """Evidence comes before the action but never prevents it. The reset is done, and says which evidence is missing."""
    set_constants(world, 'def defect(*_):\n    raise KeyError("a defect")\n\n\nreplace(look_briefly=defect)')
    answer = execute(world, "reset")
    assert (answer.code, answer.trailer["state"]) == (0, "running")
    assert "KeyError" in answer.trailer["warnings"][0]
