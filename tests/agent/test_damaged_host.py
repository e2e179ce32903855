"""Nights in which the host itself is damaged: a full disk, no event daemon, a QEMU that dies as it starts.

A VM that was on is on after a cycle, whatever the host lacks.
"""

from contextlib import closing
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import CONF, VMID, World

from ..support.agent import execute, hasten, set_constants
from ..support.full import fill, small_disk
from ..support.pve_host import conf, end_qmeventd, hook, qmeventd
from ..support.qemu import leave_out_guest

pytestmark = [pytest.mark.real("qemu"), pytest.mark.slow, pytest.mark.all]


def cycled(world: World) -> str:
    """Cycle the VM, see that it runs in a new QEMU, and return the job's output."""
    before = world.pid
    answer = execute(world, "cycle")
    assert (answer.code, answer.trailer["state"]) == (0, "running"), answer.stdout
    assert world.pid not in (None, before)
    return answer.stdout


# --- no room is left ---


@pytest.mark.real("root", "mounts")
def test_a_run_without_any_room(short_dir: Path) -> None:
    """QEMU's pid file is in /run too, so the host agent's reserve must be enough for both."""
    with closing(World(short_dir, scale=20)) as world, small_disk(world.root / "run", "4m") as run:
        (run / "qemu-server").mkdir()
        hasten(world)
        leave_out_guest(world)
        assert world.qm("start", str(VMID)).returncode == 0
        try:
            execute(world, "ping")
            fill(run)
            assert execute(world, "reset").code == 0
            fill(run)
            cycled(world)
        finally:
            (run / "filler").unlink()
            world.qm("stop", str(VMID))


@pytest.mark.real("root", "mounts")
def test_a_task_log_without_any_room(world: World) -> None:
    """`qm` ends at once if it can't record its task, but its worker continues, so a start waits for the worker."""
    log = world.root / "var/log/pve"
    with small_disk(log, "64k"):
        (log / "tasks").mkdir()
        fill(log)
        assert execute(world, "reset").code == 0
        cycled(world)
        assert execute(world, "stop").code == 0
        answer = execute(world, "start")
        assert (answer.code, answer.trailer["state"]) == (0, "running"), answer.stdout


# --- other processes of the VM are dead, or QEMU dies ---


def test_an_event_daemon_that_is_dead(world: World) -> None:
    """Only `qm stop` itself cleans up after a QEMU that has ended."""
    end_qmeventd(world)
    cycled(world)
    assert qmeventd(world) == 0


def test_a_qemu_that_dies_as_a_cycle_starts_it(world: World) -> None:
    """The kernel kills QEMU for its memory after `qm start` was done, so the cycle starts the VM again."""
    set_constants(world, START_VERIFY_SECONDS=600.0)  # the time for a slow QEMU; this one does not come any more
    once, pidfile = world.root / "hook-once", world.root / f"run/qemu-server/{VMID}.pid"
    hook(world, "post-start", 0, f"[ -e {once} ] || {{ : > {once}; kill -9 $(cat {pidfile}); }}")
    assert cycled(world).count("stage: start") == 2
    assert once.exists()


def test_a_configuration_that_proxmox_takes_all_the_same(world: World) -> None:
    """Proxmox ignores lines that it can't read, and `protection` protects a VM only from its removal."""
    conf(world).write_text(f"protection: 1\nthis is not a line\n{CONF.replace('memory: 32', 'memory: 32x')}")
    assert execute(world, "reset").code == 0
    cycled(world)
