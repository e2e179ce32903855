"""The heartbeat where there is no Linux guest: QEMU without a balloon device, QEMU that is silent, and none at all."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import World

from ..support.agent import execute
from ..support.signals import signal_process

pytestmark = pytest.mark.slow


def listed(world: World, *which: str) -> list[list[str]]:
    """Return the rows of the host's table, each as its number, its state and what was seen."""
    command = [sys.executable, "-IS", str(world.agent), "heartbeat", *which, "--root", str(world.root)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    head, *rows = ran.stdout.splitlines()
    assert head.split() == ["VM", "heartbeat", "seen"]
    return [row.split(maxsplit=2) for row in rows]


@pytest.mark.real("qemu")
def test_a_vm_without_a_balloon_device_says_so(world: World) -> None:
    """Each look and the host say so; the verdict is the one that needs no heartbeat."""
    why = "no heartbeat to be had: the VM has no balloon device"
    for verb in ("status", "forensics"):
        verdict = execute(world, verb).trailer["verdict"]
        assert (verdict["code"] in ("qemu-running", "guest-silent"), why in verdict["evidence"]) == (True, True), (
            verdict
        )
    assert listed(world) == listed(world, "--all") == [["102", "none", why]]


@pytest.mark.real("qemu")
def test_the_table_lists_what_does_not_run(world: World) -> None:
    """A VM that is off, and one whose QEMU is silent: neither has a heartbeat that is lost."""
    assert listed(world, "--vm", "103") == [["103", "-", "stopped"]]
    assert world.pid
    signal_process(world.pid, signal.SIGSTOP)
    try:
        assert listed(world) == [["102", "-", "wedged"]]
    finally:
        signal_process(world.pid, signal.SIGCONT)
    (world.root / "run/qemu-server/102.pid").rename(world.root / "pid")
    assert listed(world) == []


def test_a_probe_that_fails_says_that_nothing_is_known(short_dir: Path) -> None:
    """The stand-in for QEMU refuses the question, and the look continues without a heartbeat."""
    world = World(short_dir, qemu="")
    try:
        world.begin()
        verdict = execute(world, "forensics").trailer["verdict"]
        assert (verdict["code"], "the guest's heartbeat is not known" in verdict["evidence"]) == ("guest-silent", True)
        assert execute(world, "status").trailer["verdict"]["evidence"][1:] == []
        assert [row[:3] for row in listed(world)] == [["102", "not", "known  The command qom-get has not been found"]]
    finally:
        world.close()
