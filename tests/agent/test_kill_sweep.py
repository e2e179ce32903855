"""At every stage of a cycle and a reset, SIGKILL for the SSH side, the resident agent or the job itself."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import World

from ..conftest import running_world, serving
from ..support.agent import execute, processes, set_constants
from ..support.chain import links_of
from ..support.pve_host import command_line, gated_hook, in_hook, restore, under_ha, worker
from ..support.selection import sampled
from ..support.signals import signal_group, signal_process
from ..support.sshd import Sshd, descendants
from ..support.stages import CYCLE, RESET, Hold, at_qm, memory, recorded_command, stage, until

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.slow]

HOLDS = {"cycle": CYCLE, "reset": RESET}
EVERY = [(verb, name) for verb, holds in HOLDS.items() for name in holds]


@pytest.fixture(scope="module")
def sshd(directory: Path) -> Iterator[Sshd]:
    """One host for the whole sweep, so each case begins with the leftovers of the previous one, as on a real host."""
    with running_world(directory) as world:
        set_constants(world, HA_STOP_SECONDS=60.0)  # it may not elapse here
        with serving(world) as server:
            yield server


Kill = Callable[[Sshd, str], None]


def held_and_killed(sshd: Sshd, verb: str, hold: Hold, job_id: str, kill: Kill, session: bool = False) -> None:
    """Send a verb by a real ssh, hold it in a stage, call `kill`, and let the rest continue."""
    memory(sshd.world, "evidence.json").unlink(missing_ok=True)
    held = hold(sshd.world, job_id)
    next(held)
    line = f"{verb} id={job_id} by=operator"
    command = [*sshd.client(sshd.power_key), "session" if session else line]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as ssh:
        assert ssh.stdin is not None
        if session:
            ssh.stdin.write(f"1 {line}\n".encode())
            ssh.stdin.flush()
        next(held)
        kill(sshd, job_id)
        next(held)
        if kill is not the_job:
            ssh.wait(120)
        ssh.kill()
    next(held, None)


def whole_ssh_side(sshd: Sshd, job_id: str) -> None:
    sshd.drop_connections()


def resident_agent(sshd: Sshd, job_id: str) -> None:
    """Kill only the agent, which is the first such process of the connection. Its readers are below it."""
    below = descendants(sshd.process.pid)
    agents = [pid for pid in below if "breakglass-pve serve" in command_line(pid)]
    signal_process(agents[0], signal.SIGKILL)


def the_job(sshd: Sshd, job_id: str) -> None:
    """Kill the first of the job's processes, and not the standby process."""
    signal_process(processes(sshd.world, job_id)[-1], signal.SIGKILL)


@pytest.mark.parametrize(("verb", "name"), sampled(EVERY, ("cycle", "stop")))
@pytest.mark.parametrize("kill", [whole_ssh_side, resident_agent])
def test_the_ssh_side_is_killed(sshd: Sshd, verb: str, name: str, kill: Kill) -> None:
    """The verb continues without its client. The VM ends running, and the same id returns the outcome."""
    before, job_id = sshd.world.pid, f"{verb}-{name}-{kill.__name__}"
    held_and_killed(sshd, verb, HOLDS[verb][name], job_id, kill, session=kill is resident_agent)
    answer = execute(sshd.world, f"{verb} id={job_id}")
    trailer = answer.trailer
    assert (trailer["outcome"], trailer["state"], trailer["attached"]) == ("done", "running", True)
    assert (sshd.world.pid == before) == (verb == "reset")
    assert sshd.world.monitor("query-status")["status"] == "running"  # type: ignore[index]


@pytest.mark.parametrize(("verb", "name"), sampled(EVERY, ("cycle", "stop"), ("cycle", "start"), ("reset", "reset")))
def test_the_job_itself_is_killed(sshd: Sshd, verb: str, name: str) -> None:
    """Before its stop, a killed cycle ends and says so. From the stop on, a second process starts the VM."""
    before, job_id = sshd.world.pid, f"{verb}-{name}-job"
    held_and_killed(sshd, verb, HOLDS[verb][name], job_id, the_job)
    trailer = execute(sshd.world, f"{verb} id={job_id}").trailer
    if verb == "cycle" and name in ("stop", "start", "verify"):
        assert trailer["outcome"] == "done"
        assert [f"in stage {name}; its standby" in warning for warning in trailer["warnings"]] == [True]
        assert sshd.world.pid not in (None, before)
    else:
        assert (trailer["outcome"], trailer["verdict"]["code"], trailer["stage"]) == ("failed", "job-killed", name)
        assert sshd.world.pid == before
    assert (trailer["state"], execute(sshd.world, "status").trailer["holder"]) == ("running", None)
    acted = [] if name in ("preflight", "forensics") else ["begins", "ends"] if verb == "cycle" else ["begins"]
    assert links_of(sshd.world, job_id) == acted
    assert execute(sshd.world, "history").trailer["chain"]["broken"] == ""


def test_both_processes_of_a_cycle_are_killed(sshd: Sshd) -> None:
    """No process is left to start the VM. Exit 15 says that it is off and what to do, and that works."""

    def everything(sshd: Sshd, job_id: str) -> None:
        assert stage(sshd.world, job_id) == "start"
        command = recorded_command(sshd.world, job_id)
        pids = processes(sshd.world, job_id)
        assert len(pids) == 2
        signal_group(os.getpgid(pids[0]), signal.SIGKILL)  # as the runbook says
        signal_process(command, signal.SIGKILL)

    held_and_killed(sshd, "cycle", at_qm("start"), "stranded-1", everything)
    answer = execute(sshd.world, "cycle id=stranded-1")
    verdict = answer.trailer["verdict"]
    assert (answer.code, verdict["code"], verdict["advice"]) == (15, "stranded", "start")
    kept = json.loads(memory(sshd.world, "jobs", "stranded-1", "result.json").read_text())
    assert (answer.trailer["state"], kept["state"]) == ("stopped", "stopped")
    assert links_of(sshd.world, "stranded-1") == ["begins"]
    assert execute(sshd.world, "start").trailer["state"] == "running"
    chain = execute(sshd.world, "history").trailer["chain"]
    assert (chain["broken"], "stranded-1" in chain["notes"][-1]) == ("", True)


# --- while the worker of a `qm` is alive ---


def in_a_hook(phase: str) -> Hold:
    """Hold a cycle whose `qm` has begun its work, because its worker is in a hook script."""

    def hold(world: World, job_id: str) -> Iterator[None]:
        restore(world)
        gate = gated_hook(world, phase)
        yield
        until(lambda: in_hook(world, phase), f"the hook {phase}")
        recorded_command(world, job_id)
        yield
        gate.write_text("go\n")
        yield

    return hold


def at_has_stop(world: World, job_id: str) -> Iterator[None]:
    """Hold a cycle that waits for HA. HA's own `qm stop` has begun and is in a hook script."""
    restore(world)
    under_ha(world)
    gate = gated_hook(world, "pre-stop")
    yield
    until(lambda: worker(world, "qmstop"), "HA's stop")
    yield
    gate.write_text("go\n")
    yield


AT_WORK: dict[str, Hold] = {"stop": in_a_hook("pre-stop"), "start": in_a_hook("pre-start"), "stop-by-ha": at_has_stop}


@pytest.mark.parametrize("kill", sampled([whole_ssh_side, resident_agent, the_job], the_job))
@pytest.mark.parametrize("name", sampled(AT_WORK, "stop"))
def test_a_cycle_ends_running_whoever_is_killed_beside_its_worker(sshd: Sshd, name: str, kill: Kill) -> None:
    """The worker and the cycle continue. The VM is not stopped a second time and not left off."""
    before, job_id = sshd.world.pid, f"{name}-{kill.__name__}"
    held_and_killed(sshd, "cycle", AT_WORK[name], job_id, kill, session=kill is resident_agent)
    trailer = execute(sshd.world, f"cycle id={job_id}").trailer
    assert (trailer["outcome"], trailer["state"]) == ("done", "running")
    assert (worker(sshd.world), sshd.world.pid in (None, before)) == (0, False)
    restore(sshd.world)
