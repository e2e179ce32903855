"""The stand-in for Proxmox is as unkind as the original: its worker, its qmeventd, its HA, its slow storages."""

import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from breakglass.demo.proxmox.processes import name_of, processes_of
from breakglass.demo.proxmox.world import CONF, VMID, World

from ..support.failing_tools import misbehave
from ..support.pve_host import (
    HA_UNITS,
    HOPELESS,
    another_stop,
    cleaner,
    command_line,
    conf,
    configure,
    flock_pids,
    gated_hook,
    ha_queue,
    ha_requested,
    hook,
    in_hook,
    is_settled,
    lock,
    no_quorum,
    qmeventd,
    reboot_pending,
    restore,
    scope,
    systemctl,
    under_ha,
    worker,
)
from ..support.qemu import Witness, leave_out_guest
from ..support.signals import signal_group, signal_process
from ..support.stages import queued, until

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
    command = shared.root / "vm.json"
    if (sound := command.with_suffix(".sound")).exists():
        sound.rename(command)
    restore(shared)
    return shared


@pytest.fixture
def own(short_dir: Path) -> Iterator[World]:
    """A host of a test's own, without a scale, whose VM runs."""
    with closing(World(short_dir)) as world:
        assert world.qm("start", str(VMID)).returncode == 0
        yield world


def qm(world: World, *words: str) -> tuple[int, str, str]:
    """Return what `qm` exits with and says, on stdout and on stderr."""
    verb, *options = words
    ran = world.qm(verb, str(VMID), *options)
    return ran.returncode, ran.stdout, ran.stderr


def started_by(world: World, words: list[str]) -> None:
    """Have another command in the place of QEMU's."""
    command = world.root / "vm.json"
    command.rename(command.with_suffix(".sound"))
    command.write_text(json.dumps(words))


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


def test_an_orphan_of_a_wedged_stop_never_kills(world: World) -> None:
    """Its first words are its last: SIGPIPE ends it before it sends a SIGTERM."""
    qemu, gate = silent(world), gated_hook(world, "pre-stop")
    with another_stop(world) as person:
        pid = worker(world, "qmstop")
        signal_group(person.pid, signal.SIGKILL)
        person.wait()
        gate.write_text("go\n")
        assert has_ended(pid)
    signal_process(qemu, signal.SIGCONT)
    assert not has_ended(qemu, 0)


def test_sigterm_to_qm_escalates_at_once(own: World) -> None:
    """It is passed on to the worker, whose wait for `quit` it ends: a minute, on this host without a scale."""
    qemu = silent(own)
    with another_stop(own) as person:
        assert person.stdout is not None
        until(lambda: queued(own), "its quit")
        person.terminate()
        assert person.stdout.readline() == ESCALATION
        signal_process(qemu, signal.SIGCONT)
        assert person.wait(60) == 0
        assert has_ended(qemu, 0)


# --- texts and exit codes ---


def stopped(world: World) -> None:
    assert world.qm("stop", str(VMID)).returncode == 0
    until(lambda: is_settled(world), "the end of the cleanup, for which the next command would wait")


def stopped_and_locked(world: World) -> None:
    stopped(world)
    lock(world, "backup")


def wedged(world: World) -> None:
    silent(world)


def paused(world: World) -> None:
    world.monitor("stop")


def left_in_scope(world: World) -> None:
    stopped(world)
    scope(world).write_text(f"{os.getpid()}\n")


def bad_option(world: World) -> None:
    stopped(world)
    started_by(world, [world.qemu or "false", "-nonsense"])


def never_in_the_background(world: World) -> None:
    stopped(world)
    started_by(world, ["sleep", "1000"])


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


(ISO, NO_ISO), (BRIDGE, NO_BRIDGE), (HUGEPAGES, NO_NUMA), (TEMPLATE, NO_TEMPLATE) = HOPELESS.values()
ISO_PATH, NOT_FOUND = "/var/lib/vz/template/iso/gone.iso", "No such file or directory\n"
MEMORY_PM = "at /usr/share/perl5/PVE/QemuServer/Memory.pm line 388."
HOOK_ERROR = "hookscript error for 102 on pre-start: command '/var/lib/vz/snippets/hook.sh 102 pre-start' failed: "
SAID = {
    "stop": Said("stop", code=0),
    "stop, stopped": Said("stop", stopped, 0),
    "stop, stopped and locked": Said("stop", stopped_and_locked, 0),
    "stop, locked": Said("stop", lambda world: lock(world, "backup"), err="VM is locked (backup)\n"),
    "stop, wedged": Said(
        "stop",
        wedged,
        0,
        f"{ESCALATION}VM still running - terminating now with SIGKILL\n",
    ),
    "start, running": Said("start", err="VM 102 already running\n"),
    "start, running under a backup": Said("start", lambda world: lock(world, "backup"), 0),
    "start, no quorum": Said("start", no_quorum, 2, err="cluster not ready - no quorum?\n"),
    "start, left in scope": Said("start", left_in_scope, err="timeout waiting on systemd\n"),
    "start, never in the background": Said(
        "start", never_in_the_background, err="start failed: command '/usr/bin/kvm 1000' failed: got timeout\n"
    ),
    "start, refused by its hook": Said("start", refusing_hook, err=f"{HOOK_ERROR}exit code 3\n"),
    "reset": Said("reset", code=0),
    "reset, stopped": Said("reset", stopped, err="VM 102 not running\n"),
    "reset, no quorum": Said("reset", no_quorum, 0),
    "shutdown": Said("shutdown --timeout 5", err="VM quit/powerdown failed - got timeout\n"),
    "shutdown by force": Said(
        "shutdown --timeout 5 --forceStop 1", code=0, out="VM still running - terminating now with SIGTERM\n"
    ),
    "shutdown, paused": Said("shutdown", paused, err="VM is paused - cannot shutdown\n"),
    "reboot": Said("reboot --timeout 5", err="VM quit/powerdown failed - got timeout\n"),
    "reboot, stopped": Said("reboot", stopped, err="VM 102 not running\n"),
    "showcmd, image missing": Said("showcmd", with_option(ISO), 2, err=f"stat for '{ISO_PATH}' failed - {NOT_FOUND}"),
    "showcmd, image missing, stopped": Said("showcmd", with_option(ISO, stopped), 2, err=f"{NO_ISO}\n"),
    "showcmd, bridge missing": Said("showcmd", with_option(BRIDGE), 2, err=f"{NO_BRIDGE}\n"),
    "showcmd, hugepages": Said("showcmd", with_option(HUGEPAGES), 255, err=f"{NO_NUMA} {MEMORY_PM}\n"),
    "start, image missing": Said("start", with_option(ISO, stopped), err=f"{NO_ISO}\n"),
    "start, bridge missing": Said("start", with_option(BRIDGE, stopped), err=f"{NO_BRIDGE}\n"),
    "start, hugepages": Said("start", with_option(HUGEPAGES, stopped), err=f"{NO_NUMA} {MEMORY_PM}\n"),
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


@pytest.mark.real("qemu")
def test_qemus_own_words_are_on_stdout(world: World) -> None:
    """Why QEMU did not start stands there, and stderr has only that it did not."""
    bad_option(world)
    code, out, err = qm(world, "start")
    assert (code, err) == (255, "start failed: QEMU exited with code 1\n")
    assert "-nonsense: invalid option\n" in out


def test_pending_options_are_the_current_ones_after_a_stop(world: World) -> None:
    """Snapshots stay as they are."""
    conf(world).write_text(f"{CONF}\n[PENDING]\ncores: 2\ndelete: boot\n\n[before]\ncores: 4\n")
    assert qm(world, "stop")[0] == 0
    assert qm(world, "pending")[1].splitlines()[:2] == ["cur cores: 2", "cur memory: 32"]
    assert "boot" not in conf(world).read_text()
    assert conf(world).read_text().endswith("\n[before]\ncores: 4\n")


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


@pytest.mark.real("qemu")
def test_a_reboot_that_waits_starts_the_vm_when_its_qemu_ends(world: World) -> None:
    """Whatever ends it: qmeventd finds the word that the reboot left, and its own task starts the VM."""
    old = world.pid or 0
    with Witness(world) as witness, another_stop(world, "reboot", "--timeout", "3000") as person:
        witness.wait("POWERDOWN")
        assert reboot_pending(world).exists()
        signal_process(old, signal.SIGKILL)
        assert person.wait(60) == 0
        until(lambda: world.pid not in (None, old), "a start")
    until(lambda: not flock_pids(world), "the start's end")
    assert not reboot_pending(world).exists()
    until(lambda: "qmstart" in (world.root / "var/log/pve/tasks/active").read_text(), "the start in the task log")


# --- HA ---


def test_ha_acts_later_and_by_the_real_task(world: World) -> None:
    """`qm stop` has been answered while the VM runs; then the LRM's own task stops it."""
    under_ha(world)
    os.mkfifo(world.root / "gate")
    misbehave(world.root, gate="stop")
    before = world.pid
    assert qm(world, "stop") == (0, "Requesting HA stop for VM 102\n", "")
    until(lambda: worker(world, "qmstop"), "the LRM's task")
    assert world.pid == before
    (world.root / "gate").write_text("")
    until(lambda: world.pid is None, "the end")
    until(lambda: '"stopped"' in (world.root / "etc/pve/ha/manager_status").read_text(), "HA's word")
    assert "state stopped" in (world.root / "etc/pve/ha/resources.cfg").read_text()
    misbehave(world.root)
    assert qm(world, "start")[1] == "Requesting HA start for VM 102\n"
    until(lambda: world.pid is not None and not flock_pids(world), "HA's start")


def test_ha_that_is_dead_keeps_a_request_and_does_it_when_it_is_back(world: World) -> None:
    """Even if `started` was requested after it: the manager reads its queue, and writes `stopped` (Manager.pm)."""
    under_ha(world, dead=HA_UNITS, silent=324)
    assert "old timestamp - dead?" in subprocess.check_output([world.bin / "ha-manager", "status"], text=True)
    assert qm(world, "stop")[0] == 0
    assert subprocess.run([world.bin / "ha-manager", "set", f"vm:{VMID}", "--state", "started"]).returncode == 0
    assert ha_queue(world) == f"stop vm:{VMID} 0\n"
    systemctl(world, "start", *HA_UNITS)
    until(lambda: world.pid is None, "HA's stop")
    assert (ha_queue(world), ha_requested(world)) == ("", "stopped")


# --- times, and the end ---


def test_closing_leaves_nothing_behind(own: World) -> None:
    """No VM, no qmeventd, no worker or hook of it, nothing of HA's."""
    under_ha(own, round=1000)
    shutil.rmtree(own.root / "etc/pve/ha")
    hook(own, "pre-stop", FOR_EVER)
    with another_stop(own) as person:
        until(lambda: in_hook(own, "pre-stop"), "the hook")
        signal_group(person.pid, signal.SIGKILL)
        wanted = {"qmeventd", *HA_UNITS, "task UPID", "hookscript"}
        until(lambda: wanted <= {name_of(pid).split(":")[0] for pid in processes_of(str(own.root))}, "all of them")
        own.close()
        assert list(processes_of(str(own.root))) == []
