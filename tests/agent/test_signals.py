"""The processes that a stop may signal, and its answer about a QEMU that no signal can end."""

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from breakglass.agents.pve.host.bounded import kill_child
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Answer, execute
from ..support.hung import vm_on_frozen_storage
from ..support.selection import sampled
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
def decoy(world: World, argv0: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that reports any signal, and fail if it got one."""
    command = [argv0, "-IS", "-c", WITNESS, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, executable=sys.executable, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.poll() is None
        assert process.communicate("")[0] == ""


def other_vm(world: World) -> list[str]:
    """Return the arguments of VM 1020's QEMU, as qemu-server writes them."""
    return ["-id", "1020", "-name", "other,debug-threads=on", "-pidfile", f"{world.root}/run/qemu-server/1020.pid"]


def pidfile(world: World) -> Path:
    return world.root / f"run/qemu-server/{VMID}.pid"


@pytest.mark.parametrize("argv0", sampled(["/usr/bin/kvm", "/usr/bin/python3"], "/usr/bin/kvm"))
@pytest.mark.parametrize("verb", sampled(["stop", "cycle"], "cycle"))
def test_a_recycled_pid_gets_no_signal(world: World, argv0: str, verb: str) -> None:
    """The pid file is stale. Its pid belongs to another process, even VM 1020's QEMU, so VM 102 is not running."""
    assert execute(world, "stop").code == 0
    with decoy(world, argv0, *other_vm(world)) as process:
        pidfile(world).write_text(f"{process.pid}\n")
        assert execute(world, "status").trailer["state"] == "stopped"
        answer = execute(world, verb)
        assert (answer.code, answer.trailer["state"]) == (0, "running" if verb == "cycle" else "stopped")
        assert (world.pid == process.pid) == (verb == "stop")


# --- the whole ladder, in three places at once, because it takes half a minute ---


def fail_stops(world: World, pid: int) -> None:
    """Make `qm stop` fail, and let the pid file then name another process. Everything else works."""
    real = (world.bin / "qm").rename(world.bin / "real-qm")
    stop = f"echo {pid} > {pidfile(world)}; echo got timeout >&2; exit 255"
    (world.bin / "qm").write_text(f'#!/bin/sh\n[ "$1" != stop ] || {{ {stop}; }}\nexec {real} "$@"\n')
    (world.bin / "qm").chmod(0o755)


def verbs_beside_a_decoy(world: World, *verbs: str) -> list[Answer]:
    seen_a_moment_ago(world)
    with decoy(world, "/usr/bin/kvm", *other_vm(world)) as process:
        fail_stops(world, process.pid)
        return [execute(world, verb) for verb in verbs]


def on_frozen_storage(directory: Path, verb: str) -> list[Answer]:
    """Run verbs on a real QEMU that writes to a frozen file system, so a thread of it is in uninterruptible sleep."""
    with vm_on_frozen_storage(directory) as world:
        return verbs_beside_a_decoy(world, verb, "start", "status")


def stopped_by_a_signal(directory: Path, verb: str) -> list[Answer]:
    """Run a verb on a QEMU that answers neither its monitor nor SIGTERM."""
    directory.mkdir()
    world = World(directory, scenario="qemu-wedged")
    world.begin()
    answers = verbs_beside_a_decoy(world, verb)
    world.close()
    return answers


@pytest.fixture(scope="module")
def ladders() -> Iterator[dict[str, list[Answer]]]:
    """Stop and cycle where SIGKILL does not help, and cycle where only SIGKILL helps."""
    cases = {"stop": on_frozen_storage, "cycle": on_frozen_storage, "wedged": stopped_by_a_signal}
    verbs = {"stop": "stop", "cycle": "cycle anyway=storage-hung", "wedged": "cycle"}
    with tempfile.TemporaryDirectory(prefix="bg") as directory, ThreadPoolExecutor() as together:
        runs = {name: together.submit(case, Path(directory) / name, verbs[name]) for name, case in cases.items()}
        yield {name: run.result() for name, run in runs.items()}


@pytest.mark.all
@pytest.mark.real("fsfreeze")
@pytest.mark.parametrize("verb", ["stop", "cycle"])
def test_a_qemu_that_survives_sigkill_forbids_a_start(ladders: dict[str, list[Answer]], verb: str) -> None:
    """Exit 14, the reason in a sentence, and no start. A later start is refused too."""
    forced, started, status = ladders[verb]
    assert "stop: SIGKILL to " in forced.stdout
    assert (forced.code, forced.trailer["verdict"]["code"], forced.trailer["stage"]) == (14, "deadline", "verify")
    assert "storage that does not answer; a start would fail" in forced.trailer["verdict"]["sentence"]
    assert "the VM stays off until it is started" in " ".join(forced.trailer["verdict"]["evidence"])
    assert "start:" not in forced.stdout
    assert (started.code, started.trailer["verdict"]["code"]) == (12, "leftover")
    assert status.trailer["verdict"]["code"] == "leftover"


@pytest.mark.all
@pytest.mark.real("fsfreeze")
def test_a_qemu_that_only_sigkill_ends_is_cycled(ladders: dict[str, list[Answer]]) -> None:
    """The ladder runs to its end and kills only the right process, although the pid file then names VM 1020's."""
    (cycled,) = ladders["wedged"]
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
