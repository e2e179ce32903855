"""A VM that is being started while the host looks at it. Its new QEMU is never called a leftover."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import execute
from ..support.pve_host import another_stop, gated_hook, in_hook, scope, worker
from ..support.stages import until

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
            assert f"by process {starter}: look again" in verdict["sentence"]
            assert [line for line in verdict["evidence"] if "kill" in line] == []
