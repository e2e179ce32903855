"""The heartbeat without a Linux guest: a QEMU without a balloon device, a silent QEMU, and no QEMU."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from breakglass.agents.pve.forensics.evidence import Evidence
from breakglass.agents.pve.forensics.heartbeat import sample_heartbeat
from breakglass.agents.pve.forensics.heartbeat_rule import heartbeat_state
from breakglass.agents.pve.forensics.on_qemu import qemu_probes
from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.host.qmp import Qmp
from breakglass.demo.proxmox.kvm import Machine, serve
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import execute
from ..support.signals import signal_process

pytestmark = pytest.mark.slow


def listed(world: World, *which: str) -> list[list[str]]:
    """Return the rows of the host's table, each as its number, its state and its observation."""
    command = [sys.executable, "-IS", str(world.agent), "heartbeat", *which, "--root", str(world.root)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    head, *rows = ran.stdout.splitlines()
    assert head.split() == ["VM", "heartbeat", "seen"]
    return [row.split(maxsplit=2) for row in rows]


@pytest.mark.all
@pytest.mark.real("qemu")
def test_a_vm_without_a_balloon_device_says_so(world: World) -> None:
    """Each look and the host's table say so; the verdict needs no heartbeat. What does not run has lost none."""
    why = "no heartbeat is available: the VM has no balloon device"
    for verb in ("status", "forensics"):
        verdict = execute(world, verb).trailer["verdict"]
        assert (verdict["code"] in ("qemu-running", "guest-silent"), why in verdict["evidence"]) == (True, True), (
            verdict
        )
    assert listed(world) == [["102", "none", why]]
    assert listed(world, "103") == [["103", "-", "stopped"]]
    signal_process(world.pid, signal.SIGSTOP)
    try:
        assert listed(world) == [["102", "-", "wedged"]]
    finally:
        signal_process(world.pid, signal.SIGCONT)
    (world.root / "run/qemu-server/102.pid").rename(world.root / "pid")
    assert listed(world) == []


class InFirmware(Machine):
    """The answers of a QEMU version about a guest that answered once, and whose driver is not loaded now."""

    def __init__(self, major: int) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.answers = {
            "x-query-virtio-queue-status": {"vring-desc": 0},
            "query-version": {"qemu": {"major": major, "minor": 2}},
        }
        stats = {"stats": {}, "last-update": 1_796_000_000}
        self.properties = {"guest-stats": stats, "guest-stats-polling-interval": 2}

    def answer(self, request: dict[str, Any]) -> list[dict[str, object]]:
        """Return the message that answers one command."""
        name = request["execute"]
        self.asked.append(name)
        if name == "qom-get":
            return [{"return": self.properties[request["arguments"]["property"]]}]
        return [{"return": self.answers[name]}] if name in self.answers else super().answer(request)


@pytest.mark.parametrize(("major", "state"), [(9, "unloaded"), (10, "gone"), (12, "unknown")])
def test_versions_of_qemu(short_dir: Path, major: int, state: str) -> None:
    """Before 10, a reset did not clear the answer, so a boot loader looks like a kernel without its driver.

    A version that we did not try is sent no unstable command, because one could end the VM.
    """
    host = Host(VMID, str(short_dir))
    (short_dir / "run/qemu-server").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(host.qmp)
        listener.listen(1)
        machine = InFirmware(major)
        monitor = threading.Thread(target=serve, args=(listener, machine))
        monitor.start()
        beat = sample_heartbeat(host, whole=False)
        (probe,) = qemu_probes(host, os.getpid(), apart=0.0)
        replies = list(probe.ask(1.0))
        with Qmp(host.qmp, 5) as qmp:
            qmp.command("quit")
        monitor.join()
    assert heartbeat_state(Evidence("running", heartbeats=(beat,))) == state
    assert replies[-1].probe == "queues"
    assert any(name.startswith("x-") for name in machine.asked) == (major < 12), machine.asked
