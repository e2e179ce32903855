"""The processes that a stop may signal, and its answer about a QEMU that no signal can end."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from breakglass.agents.pve.host.bounded import kill_child
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import execute
from ..support.stages import seen_a_moment_ago

pytestmark = [pytest.mark.real("qemu", "root"), pytest.mark.slow]

# Prints that it is ready, then prints each signal that it gets, and continues to run.
WITNESS = """
import signal, sys
def tell(number, frame):
    print(signal.Signals(number).name, flush=True)
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, tell)
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def decoy(world: World) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that looks like VM 1020's QEMU and reports any signal, and fail if it got one."""
    command = ["/usr/bin/kvm", "-IS", "-c", WITNESS, "-id", "1020", "-name", "other,debug-threads=on"]
    command += ["-pidfile", f"{world.root}/run/qemu-server/1020.pid"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, executable=sys.executable, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.poll() is None
        assert process.communicate("")[0] == ""


def pidfile(world: World) -> Path:
    return world.root / f"run/qemu-server/{VMID}.pid"


def test_a_recycled_pid_gets_no_signal(world: World) -> None:
    """The pid file is stale. Its pid belongs to another process, even VM 1020's QEMU, so VM 102 is not running."""
    assert execute(world, "stop").code == 0
    with decoy(world) as process:
        for verb, state in (("stop", "stopped"), ("cycle", "running")):
            pidfile(world).write_text(f"{process.pid}\n")
            assert execute(world, "status").trailer["state"] == "stopped"
            answer = execute(world, verb)
            assert (answer.code, answer.trailer["state"]) == (0, state)
        assert world.pid != process.pid


@pytest.mark.all
def test_a_qemu_that_only_sigkill_ends_is_cycled(short_dir: Path) -> None:
    """The ladder runs to its end and kills only the right process, although the pid file then names VM 1020's."""
    with closing(World(short_dir, scenario="qemu-wedged")) as world:
        world.begin()
        seen_a_moment_ago(world)
        with decoy(world) as process:
            qm = world.bin / "qm"
            stop = f"echo {process.pid} > {pidfile(world)}; echo got timeout >&2; exit 255"
            qm.write_text(qm.read_text().replace("#!/bin/sh\n", f'#!/bin/sh\n[ "$1" != stop ] || {{ {stop}; }}\n'))
            cycled = execute(world, "cycle")
        assert (cycled.code, cycled.trailer["state"]) == (0, "running")
        assert "stop: SIGKILL to " in cycled.stdout


def test_a_child_that_has_no_group_of_its_own_yet_is_killed_all_the_same() -> None:
    """If a command's deadline ends between fork and setsid, the command must not run later."""
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    pidfd = os.pidfd_open(pid)
    kill_child(pid, group=True)
    try:
        assert select.select([pidfd], [], [], 5)[0]
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
        os.waitpid(pid, 0)
