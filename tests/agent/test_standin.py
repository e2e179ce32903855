"""The stand-in for Proxmox is as unkind as the original: its worker, its qmeventd, its HA, its slow storages."""

import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import VMID, World

from ..support.pve_host import (
    HOPELESS,
    another_stop,
    cleaner,
    command_line,
    configure,
    flock_pids,
    gated_hook,
    hook,
    in_hook,
    is_settled,
    lock,
    no_quorum,
    qmeventd,
    reboot_pending,
    restore,
    scope,
    worker,
)
from ..support.qemu import leave_out_guest
from ..support.signals import signal_group, signal_process
from ..support.stages import until

pytestmark = [pytest.mark.slow, pytest.mark.all, pytest.mark.usefixtures("own_tasks")]

SCALE = 50
FOR_EVER = float("inf")
ESCALATION = "VM quit/powerdown failed - terminating now with SIGTERM\n"
LOCK_FILE = f"/var/lock/qemu-server/lock-{VMID}.conf"


@pytest.fixture(scope="module")
def shared(directory: Path) -> Iterator[World]:
    """One host for these tests, whose night passes fifty times as fast."""
    with closing(World(directory, scale=SCALE)) as world:
        leave_out_guest(world)
        yield world


@pytest.fixture
def world(shared: World) -> World:
    restore(shared)
    return shared


def qm(world: World, *words: str) -> tuple[int, str, str]:
    """Return what `qm` exits with and says, on stdout and on stderr."""
    verb, *options = words
    ran = world.qm(verb, str(VMID), *options)
    return ran.returncode, ran.stdout, ran.stderr


def has_ended(pid: int, limit: float = 60) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], limit)[0])
    finally:
        os.close(pidfd)


def silent(world: World) -> int:
    """Stop QEMU by a signal, so that it answers nothing; return its pid."""
    assert world.pid is not None
    signal_process(world.pid, signal.SIGSTOP)
    return world.pid


# --- the worker ---


def test_a_killed_qm_leaves_its_worker_with_the_flock(world: World) -> None:
    """SIGKILL to the group of `qm` does not reach it. It stops the VM later, and its task is never noted as ended."""
    hook(world, "pre-stop", FOR_EVER)
    qemu = world.pid or 0
    with another_stop(world) as person:
        until(lambda: in_hook(world, "pre-stop"), "the hook")
        pid = worker(world, "qmstop")
        signal_group(person.pid, signal.SIGKILL)
        person.wait()
        assert flock_pids(world) == [pid]
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            signal_process(int(child), signal.SIGKILL)  # the hook has ended, badly: a warning, which is not read
        assert has_ended(pid)
    assert not has_ended(qemu, 0)
    gate = gated_hook(world, "pre-stop")
    with another_stop(world) as person:
        pid = worker(world, "qmstop")
        signal_group(person.pid, signal.SIGKILL)
        gate.write_text("go\n")
        assert has_ended(qemu)
        assert has_ended(pid)
    assert (world.root / "var/log/pve/tasks/active").read_text().splitlines()[0].endswith(" 0")
    assert qm(world, "stop") == (0, "", "")
    assert "unexpected status" in (world.root / "var/log/pve/tasks/index").read_text()


# --- texts and exit codes ---


def stopped(world: World) -> None:
    assert world.qm("stop", str(VMID)).returncode == 0
    until(lambda: is_settled(world), "the end of the cleanup, for which the next command would wait")


def wedged(world: World) -> None:
    silent(world)


def left_in_scope(world: World) -> None:
    stopped(world)
    scope(world).write_text(f"{os.getpid()}\n")


def refusing_hook(world: World) -> None:
    stopped(world)
    hook(world, "pre-start", 0, "exit 3")


def as_it_is(world: World) -> None:
    """Change nothing."""


def with_option(line: str, *places: Callable[[World], None]) -> Callable[[World], None]:
    """Return what adds a line to the configuration, after what else is placed."""

    def place(world: World) -> None:
        for each in places:
            each(world)
        configure(world, line)

    return place


@dataclass(frozen=True)
class Said:
    """A command on a host, what it exits with and all that it says on stdout and stderr."""

    words: str
    place: Callable[[World], None] = as_it_is
    code: int = 255
    out: str = ""
    err: str = ""


(ISO, NO_ISO), _, (HUGEPAGES, NO_NUMA), (TEMPLATE, NO_TEMPLATE) = HOPELESS.values()
ISO_PATH, NOT_FOUND = "/var/lib/vz/template/iso/gone.iso", "No such file or directory\n"
MEMORY_PM = "at /usr/share/perl5/PVE/QemuServer/Memory.pm line 388."
HOOK_ERROR = "hookscript error for 102 on pre-start: command '/var/lib/vz/snippets/hook.sh 102 pre-start' failed: "
SAID = {
    "stop": Said("stop", code=0),
    "stop, locked": Said("stop", lambda world: lock(world, "backup"), err="VM is locked (backup)\n"),
    "stop, wedged": Said(
        "stop",
        wedged,
        0,
        f"{ESCALATION}VM still running - terminating now with SIGKILL\n",
    ),
    "start, running": Said("start", err="VM 102 already running\n"),
    "start, no quorum": Said("start", no_quorum, 2, err="cluster not ready - no quorum?\n"),
    "start, left in scope": Said("start", left_in_scope, err="timeout waiting on systemd\n"),
    "start, refused by its hook": Said("start", refusing_hook, err=f"{HOOK_ERROR}exit code 3\n"),
    "reset": Said("reset", code=0),
    "reset, stopped": Said("reset", stopped, err="VM 102 not running\n"),
    "shutdown": Said("shutdown --timeout 5", err="VM quit/powerdown failed - got timeout\n"),
    "shutdown by force": Said(
        "shutdown --timeout 5 --forceStop 1", code=0, out="VM still running - terminating now with SIGTERM\n"
    ),
    "reboot": Said("reboot --timeout 5", err="VM quit/powerdown failed - got timeout\n"),
    "showcmd, image missing": Said("showcmd", with_option(ISO), 2, err=f"stat for '{ISO_PATH}' failed - {NOT_FOUND}"),
    "showcmd, hugepages": Said("showcmd", with_option(HUGEPAGES), 255, err=f"{NO_NUMA} {MEMORY_PM}\n"),
    "start, image missing": Said("start", with_option(ISO, stopped), err=f"{NO_ISO}\n"),
    "start, template": Said("start", with_option(TEMPLATE, stopped), err=f"{NO_TEMPLATE}\n"),
}


@pytest.mark.parametrize("name", SAID)
def test_each_command_says_what_the_original_says(world: World, name: str) -> None:
    """A task's output is on stdout, what it died of on stderr, with 255; a refusal before it has its own code.

    A reboot that failed leaves no word behind.
    """
    case = SAID[name]
    case.place(world)
    assert qm(world, *case.words.split()) == (case.code, case.out, case.err)
    assert not reboot_pending(world).exists()


# --- qmeventd ---


def test_a_cleanup_holds_the_flock_beside_a_new_qemu(world: World) -> None:
    """The event daemon came late, the VM runs again, and for a while no other process gets the flock."""
    watcher, old = qmeventd(world), world.pid or 0
    signal_process(watcher, signal.SIGSTOP)
    signal_process(old, signal.SIGKILL)
    assert has_ended(old)
    assert qm(world, "start") == (0, "", "")
    new = world.pid
    signal_process(watcher, signal.SIGCONT)
    until(lambda: cleaner(world) == watcher, "a cleanup")
    assert command_line(watcher) == f"/usr/bin/perl /usr/sbin/qm cleanup {VMID} 1 0"
    signal_process(watcher, signal.SIGSTOP)  # as long as this test takes
    assert qm(world, "stop")[::2] == (255, f"can't lock file '{LOCK_FILE}' - got timeout\n")
    signal_process(watcher, signal.SIGCONT)
    assert has_ended(watcher)
    assert (world.pid, flock_pids(world)) == (new, [])
    code, _, err = qm(world, "cleanup", "1", "0")
    assert (code, err.splitlines()) == (
        255,
        [
            "Starting cleanup for 102",
            f"VM cleanup: QEMU process {new} for VM 102 still running (or newly started)",
            "aborting cleanup, VM is still running after 30 seconds",
        ],
    )


# --- HA ---


# --- times, and the end ---
