"""Nights that ended badly on Proxmox's own software: a VM that was on must be on after a cycle, whoever works on it,
and off after a stop; and what was said to have failed must not happen later."""

import os
import signal
import sys

import pytest

from handler.demo.world import VMID, World

from .agent import Session, execute
from .pve_host import (
    another_cleanup,
    another_stop,
    command_line,
    flock_pids,
    hook,
    in_hook,
    reboot_pending,
    under_ha,
    worker,
)
from .stages import until

pytestmark = [pytest.mark.real("qemu"), pytest.mark.slow]


def wedge(world: World) -> int:
    """Stop QEMU by a signal: nothing but SIGKILL ends it now. Return its pid."""
    pid = world.pid or 0
    os.kill(pid, signal.SIGSTOP)
    return pid


def ended(world: World, name: str) -> bool:
    """Tell whether no task of that name works on the VM any more."""
    return not any(name in command_line(pid) for pid in flock_pids(world))


# --- qm is ended whole ---


def test_a_stop_that_is_given_up_does_not_happen_later(world: World) -> None:
    """A hook script keeps `qm stop` longer than it may: its worker is ended with it, and the cycle goes on."""
    before = world.pid
    hook(world, "pre-stop", 400)
    answer = execute(world, "cycle")
    assert (answer.code, answer.trailer["state"]) == (0, "running")
    assert "was ended, with its worker" in answer.stdout
    assert world.pid not in (None, before)
    assert worker(world) == 0


def test_a_start_that_is_given_up_does_not_happen_later(world: World) -> None:
    """Its answer is final: no worker is left that would start the VM, and the next start need not wait for one."""
    assert world.qm("stop", str(VMID)).returncode == 0
    hook(world, "pre-start", 4000)
    answer = execute(world, "start")
    verdict = answer.trailer["verdict"]
    assert (answer.code, verdict["code"], verdict["advice"]) == (14, "deadline", "start")
    assert "nothing of it is left" in verdict["sentence"]
    assert (world.pid, worker(world)) == (None, 0)
    (world.root / "hookscript").unlink()
    assert execute(world, "start").trailer["state"] == "running"


def test_what_a_start_that_is_given_up_has_begun_is_ended(world: World) -> None:
    """A QEMU of this VM that is in the scope and has no pid file yet would be a start that was reported as failed."""
    assert world.qm("stop", str(VMID)).returncode == 0
    pids = world.root / f"sys/fs/cgroup/qemu.slice/{VMID}.scope/cgroup.procs"
    (world.root / "half.py").write_text("import signal\nsignal.pause()\n")
    waits = f"{sys.executable} {world.root}/half.py -pidfile {world.root}/run/qemu-server/{VMID}.pid"
    hook(world, "pre-start", 4000)
    script = world.root / "hookscript"
    begin = f"mkdir -p {pids.parent}\nsetsid bash -c 'exec -a /usr/bin/kvm {waits}' &\necho $! > {pids}\n: > "
    script.write_text(script.read_text().replace("#!/bin/sh", "#!/bin/bash").replace(": > ", begin))
    with Session(world) as session:
        tag = session.send("start")
        until(lambda: in_hook(world, "pre-start"), "the hook")
        half = int(pids.read_text())
        until(lambda: command_line(half).startswith("/usr/bin/kvm"), "a QEMU that is half started")
        assert session.result(tag)["exit_code"] == 14
    assert command_line(half) == ""


# --- whoever stops it, stops it for us ---


def test_a_cycle_waits_for_the_stop_that_ha_takes_its_time_for(world: World) -> None:
    """HA begins seconds later and then needs the whole ladder for a QEMU that is silent: then the cycle starts it."""
    under_ha(world)
    before = wedge(world)
    answer = execute(world, "cycle")
    assert (answer.code, answer.trailer["state"]) == (0, "running")
    assert "Requesting HA stop" in answer.stdout
    assert world.pid not in (None, before)


def test_a_cycle_goes_on_where_a_person_began_to_stop(world: World) -> None:
    """A stop in Proxmox's own page holds the lock file for more than a minute: it is waited for, then the VM starts."""
    before = world.pid
    hook(world, "pre-stop", 180)
    with another_stop(world):
        answer = execute(world, "cycle")
    assert (answer.code, answer.trailer["state"]) == (0, "running")
    assert "qm stop ended" not in answer.stdout
    assert world.pid not in (None, before)


@pytest.mark.parametrize("words", [("shutdown", "--timeout", "3000"), ("reboot", "--timeout", "3000")])
def test_a_cycle_goes_around_a_shutdown_that_the_guest_does_not_heed(world: World, words: tuple[str, ...]) -> None:
    """It would take its whole time and then fail; QEMU is ended without it, and the VM starts."""
    before = world.pid
    with another_stop(world, *words):
        answer = execute(world, "cycle")
    assert (answer.code, answer.trailer["state"]) == (0, "running")
    assert world.pid not in (None, before)


def test_a_stop_waits_for_the_one_under_way(world: World) -> None:
    """One ladder is enough for a QEMU that is silent; the answer comes when nothing is left of it."""
    wedge(world)
    with another_stop(world):
        answer = execute(world, "stop")
    assert (answer.code, answer.trailer["state"], world.pid) == (0, "stopped", None)


# --- stop means stopped ---


def test_a_stop_calls_off_the_reboot_that_a_person_asked_for(world: World) -> None:
    """Proxmox's event daemon would start the VM again as soon as its QEMU has ended."""
    with another_stop(world, "reboot", "--timeout", "3000"):
        assert reboot_pending(world).exists()
        answer = execute(world, "stop")
        assert (answer.code, answer.trailer["state"]) == (0, "stopped")
        assert "it was called off" in answer.stdout
    until(lambda: not flock_pids(world), "the end of the cleanup")
    assert (reboot_pending(world).exists(), world.pid) == (False, None)


def test_a_stopped_vm_that_somebody_starts_again_is_not_called_stopped(world: World) -> None:
    """Here its own hook script has it rebooted after the stop, where nobody can call that off."""
    hook(world, "post-stop", 0, f": > {reboot_pending(world)}")
    answer = execute(world, "stop")
    verdict = answer.trailer["verdict"]
    assert (answer.code, verdict["code"], verdict["advice"]) == (13, "started-again", "stop")
    assert world.pid is not None


# --- qm cleanup ---


@pytest.mark.parametrize("verb", ["cycle", "stop"])
def test_a_cleanup_that_holds_the_lock_file_is_waited_for(world: World, verb: str) -> None:
    """After a quick restart it does so for half a minute, beside the new QEMU, and does nothing."""
    with another_cleanup(world):
        answer = execute(world, verb)
    assert answer.code == 0
    assert "cleanup" in answer.stdout
    assert (world.pid is None) == (verb == "stop")
