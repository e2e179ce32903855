"""A VM that is being started while the host looks at it. Its new QEMU is never called a leftover."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from breakglass.demo.proxmox.processes import processes_of
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Session, execute, set_constants
from ..support.failing_tools import misbehave
from ..support.pve_host import another_stop, command_line, gated_hook, in_hook, scope, worker
from ..support.signals import signal_process
from ..support.stages import memory, until

pytestmark = [pytest.mark.shared("world"), pytest.mark.usefixtures("own_tasks")]
own_host = pytest.mark.shared()


@contextmanager
def start_under_way(world: World) -> Iterator[int]:
    """Run a `qm start` whose QEMU is in the scope and has no pid file yet. Yield the pid of the start."""
    assert world.qm("stop", str(VMID)).returncode == 0
    gated_hook(world, "pre-start")
    with another_stop(world, "start"), subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as qemu:
        until(lambda: in_hook(world, "pre-start"), "the hook")
        scope(world).write_text(f"{qemu.pid}\n")
        yield worker(world, "qmstart")
        scope(world).unlink()
        qemu.communicate(b"\n")


def test_a_qemu_that_is_just_starting_is_no_leftover(world: World) -> None:
    """A start holds the lock file. The answer says to wait for it, and never says that its QEMU should be killed."""
    with start_under_way(world) as starter:
        for verb in ("status", "forensics"):
            verdict = execute(world, verb).trailer["verdict"]
            assert (verdict["code"], verdict["advice"]) == ("stopped-locked", "")
            assert f"the VM is being started, by process {starter}: look again" in verdict["sentence"]
            assert [line for line in verdict["evidence"] if "kill" in line] == []


def hanging_status(world: World) -> int:
    """Return the pid of a capture's `qm status` that hangs, or 0 if there is none."""
    lines = {pid: command_line(pid) for pid in processes_of(str(world.root))}
    return next((pid for pid, line in lines.items() if f"qm status {VMID}" in line), 0)


@own_host
def test_a_vm_that_was_started_during_a_capture_is_on(world: World) -> None:
    """The state is read again after the leftovers, so the answer is current, and the process belongs to the VM."""
    assert world.qm("stop", str(VMID)).returncode == 0
    set_constants(world, PERL_SECONDS=300.0, EVIDENCE_SECONDS=300.0)
    misbehave(world.root, hang="status")
    output = memory(world, "jobs/started-meanwhile/output")
    with Session(world) as session:
        tag = session.send("forensics id=started-meanwhile")
        until(lambda: output.exists() and "state: stopped" in output.read_text(), "the first look")
        until(lambda: hanging_status(world), "the probe that hangs")
        assert world.qm("start", str(VMID)).returncode == 0
        until(lambda: world.pid, "the new QEMU")
        misbehave(world.root)
        signal_process(hanging_status(world), signal.SIGKILL)
        result = session.result(tag, 300)
    assert (result["state"], result["verdict"]["code"], result["verdict"]["advice"]) == ("running", "qemu-running", "")
