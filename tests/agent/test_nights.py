"""Nights that ended badly on Proxmox's own software.

A VM that was on must be on after a cycle and off after a stop, whatever other processes do to it. A verb that was
reported as failed must not act later.
"""

import signal
import sys
from collections.abc import Callable

import pytest

from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, execute, limit_qm, processes, set_constants
from ..support.pve_host import (
    another_cleanup,
    another_stop,
    command_line,
    flock_pids,
    gated_hook,
    hook,
    in_hook,
    reboot_pending,
    under_ha,
    worker,
)
from ..support.selection import sampled
from ..support.signals import signal_process
from ..support.stages import memory, recorded_command, until
from .test_damaged_host import cycled

pytestmark = [pytest.mark.real("qemu"), pytest.mark.slow]
TIMEOUT = ((), ("--timeout", "3000"))


@pytest.fixture(autouse=True)
def limits_of_qm(world: World) -> None:
    """Each of these nights is about a `qm` that takes too long."""
    limit_qm(world)


# --- qm is ended with its worker ---


@pytest.mark.all
def test_a_stop_that_is_given_up_does_not_happen_later(world: World) -> None:
    """A hook script keeps `qm stop` too long. Its worker is ended with it, and the cycle continues."""
    hook(world, "pre-stop", float("inf"))
    assert "with its worker" in cycled(world)
    assert worker(world) == 0


def begin_half(world: World) -> Callable[[], int]:
    """Give the VM a hook script that begins a QEMU without a pid file, and hangs. Return what waits for that QEMU."""
    pids = world.root / f"sys/fs/cgroup/qemu.slice/{VMID}.scope/cgroup.procs"
    (world.root / "half.py").write_text("import signal\nsignal.pause()\n")
    waits = f"{sys.executable} {world.root}/half.py -pidfile {world.root}/run/qemu-server/{VMID}.pid"
    hook(world, "pre-start", 4000)
    script = world.root / "hookscript"
    begin = f"mkdir -p {pids.parent}\nsetsid bash -c 'exec -a /usr/bin/kvm {waits}' &\necho $! > {pids}\n: > "
    script.write_text(script.read_text().replace("#!/bin/sh", "#!/bin/bash").replace(": > ", begin))

    def half() -> int:
        until(lambda: in_hook(world, "pre-start"), "the hook")
        pid = int(pids.read_text())
        until(lambda: command_line(pid).startswith("/usr/bin/kvm"), "a QEMU that is half started")
        return pid

    return half


@pytest.mark.all
def test_a_start_that_is_given_up_does_not_happen_later(world: World) -> None:
    """The answer is final. No worker is left that would start the VM, or for which the next start would wait.

    A QEMU in the scope without a pid file is ended, because it would be a start that was reported as failed.
    """
    assert world.qm("stop", str(VMID)).returncode == 0
    half = begin_half(world)
    with Session(world) as session:
        tag = session.send("start")
        pid = half()
        result = session.result(tag)
    verdict = result["verdict"]
    assert (result["exit_code"], verdict["code"], verdict["advice"]) == (14, "deadline", "start")
    assert (command_line(pid), world.pid, worker(world)) == ("", None, 0)
    (world.root / "hookscript").unlink()
    assert execute(world, "start").trailer["state"] == "running"


@pytest.mark.all
def test_a_standby_process_ends_what_the_first_has_begun(world: World) -> None:
    """The first process of a cycle is killed beside a `qm start` that hangs. The second ends that, and begins again."""
    half, job_id = begin_half(world), "is-taken-over"
    with Session(world) as session:
        tag = session.send(f"cycle id={job_id}")
        pid = half()
        recorded_command(world, job_id)
        signal_process(processes(world, job_id)[-1], signal.SIGKILL)
        (world.root / "hookscript").unlink()
        result = session.result(tag, 120)
    assert (result["outcome"], result["state"], command_line(pid)) == ("done", "running", "")
    said = memory(world, "jobs", job_id, "output").read_text()
    assert [text for text in ("its standby process", f"start: SIGKILL to {pid}, ") if text not in said] == []


# --- another stop is at work ---


@pytest.mark.all
def test_a_cycle_waits_for_the_stop_that_ha_takes_its_time_for(world: World) -> None:
    """HA begins seconds later and needs the whole ladder for a silent QEMU. After that, the cycle starts the VM."""
    set_constants(world, HA_STOP_SECONDS=6.0)  # over while HA's stop is in its hook script
    under_ha(world)
    hook(world, "pre-stop", 180)
    signal_process(world.pid, signal.SIGSTOP)
    assert "Requesting HA stop" in cycled(world)


@pytest.mark.parametrize("task", sampled(["shutdown", "reboot", "stop"], "shutdown"))
def test_a_cycle_goes_on_beside_what_a_person_began(world: World, task: str) -> None:
    """A stop from Proxmox's page holds the lock file for over a minute. The cycle waits for it and starts the VM.

    The guest ignores a shutdown, which would take its whole time and fail. The cycle then ends QEMU itself.
    """
    if task == "stop":
        hook(world, "pre-stop", 180)
    with another_stop(world, task, *TIMEOUT[task != "stop"]):
        shown = cycled(world)
    assert ("qm stop ended" if task == "stop" else "stop: waiting") not in shown


# --- stop means stopped ---


@pytest.mark.all
@pytest.mark.parametrize("task", ["reboot", "stop"])
def test_a_stop_calls_off_the_reboot_that_a_person_asked_for(world: World, task: str) -> None:
    """Proxmox's event daemon would start the VM again as soon as its QEMU has ended.

    The verb removes the mark for that even where it waits for a person's stop.
    """
    output = memory(world, "jobs/calls-it-off/output")
    gate = gated_hook(world, "pre-stop")
    with another_stop(world, task, *TIMEOUT[task == "reboot"]), Session(world) as session:
        reboot_pending(world).touch()
        tag = session.send("stop id=calls-it-off")
        until(lambda: output.exists() and "pending reboot" in output.read_text(), "the end of the mark")
        gate.write_text("go\n")
        result = session.result(tag)
    assert (result["exit_code"], result["state"]) == (0, "stopped")
    until(lambda: not flock_pids(world), "the end of the cleanup")
    assert (reboot_pending(world).exists(), world.pid) == (False, None)


@pytest.mark.all
def test_a_stopped_vm_that_somebody_starts_again_is_not_called_stopped(world: World) -> None:
    """Here the VM's hook script reboots it after the stop, when that can't be called off."""
    hook(world, "post-stop", 0, f": > {reboot_pending(world)}")
    answer = execute(world, "stop")
    verdict = answer.trailer["verdict"]
    assert (answer.code, verdict["code"], verdict["advice"]) == (13, "started-again", "stop")
    assert world.pid is not None


# --- qm cleanup ---


@pytest.mark.all
@pytest.mark.parametrize("verb", sampled(["cycle", "stop"], "cycle"))
def test_a_cleanup_that_holds_the_lock_file_is_waited_for(world: World, verb: str) -> None:
    """After a quick restart, a cleanup holds it for half a minute beside the new QEMU, and does nothing."""
    output = memory(world, "jobs/beside-a-cleanup/output")
    with another_cleanup(world) as cleanup, Session(world) as session:
        signal_process(cleanup, signal.SIGSTOP)  # the cleanup keeps the lock file until the verb waits for that
        tag = session.send(f"{verb} id=beside-a-cleanup")
        until(lambda: output.exists() and f"waiting for {cleanup}" in output.read_text(), "the wait")
        signal_process(cleanup, signal.SIGCONT)
        result = session.result(tag, 120)
        assert result["outcome"] == "done", result
    assert (world.pid is None) == (verb == "stop")


@pytest.mark.all
def test_a_stop_waits_for_the_start_under_way_and_stops_what_that_started(world: World) -> None:
    """The VM is still off but would be on a moment later, so `stop` waits and then stops it."""
    assert world.qm("stop", str(VMID)).returncode == 0
    hook(world, "pre-start", 60)
    with another_stop(world, "start"):
        answer = execute(world, "stop")
    assert (answer.code, answer.trailer["state"], world.pid) == (0, "stopped", None)
    assert flock_pids(world) == []


# --- a job that is killed beside its qm ---


@pytest.mark.all
@pytest.mark.parametrize(
    ("verb", "phase", "verdict"),
    [("start", "pre-start", (13, "job-killed", "running")), ("cycle", "pre-stop", (15, "stranded", "stopped"))],
)
def test_a_killed_job_is_answered_when_its_qm_has_ended(
    world: World, verb: str, phase: str, verdict: tuple[object, ...]
) -> None:
    """Before that, it is not known whether the VM will run, so the answer comes after it and has the last state."""
    if verb == "start":
        assert world.qm("stop", str(VMID)).returncode == 0
    gate = gated_hook(world, phase)
    with Session(world) as session:
        tag = session.send(f"{verb} id=killed-job")
        until(lambda: in_hook(world, phase), "the hook")
        recorded_command(world, "killed-job")  # which a job that is killed can't write any more
        for pid in processes(world, "killed-job"):
            signal_process(pid, signal.SIGKILL)
        gate.write_text("go\n")
        result = session.result(tag, 120)
    assert (result["exit_code"], result["verdict"]["code"], result["state"]) == verdict
    assert verb == "cycle" or flock_pids(world) == []
    assert execute(world, "start").trailer["state"] == "running"


# --- answers about a VM that is off ---


def test_a_vm_that_is_stranded_without_a_quorum_is_not_advised_to_start(world: World) -> None:
    """The quorum was lost after the stop. A start would certainly be refused, and the evidence says why."""
    hook(world, "post-stop", 0, f"chmod 555 {world.root}/etc/pve/nodes/demo")
    answer = execute(world, "cycle")
    verdict = answer.trailer["verdict"]
    assert (answer.code, verdict["code"], verdict["advice"]) == (15, "stranded", "")
    assert any("no quorum" in line for line in verdict["evidence"])


NO_START = """
Job = find("Job")
run = Job.run


def no_process(job, command, *arguments, **options):
    if command[:2] == ["qm", "start"]:
        raise BlockingIOError(11, "no process")
    return run(job, command, *arguments, **options)


Job.run = no_process
"""


@pytest.mark.all
def test_a_host_that_can_begin_no_process_does_not_leave_the_vm_off_unsaid(world: World) -> None:
    """The fork for `qm start` fails twice. The answer reports a defect, but also that the VM is off."""
    set_constants(world, NO_START)
    answer = execute(world, "cycle")
    verdict = answer.trailer["verdict"]
    assert (answer.code, verdict["code"], verdict["advice"]) == (15, "stranded", "start")
    assert "BlockingIOError" in verdict["sentence"]
