"""The stand-in for Proxmox is as unkind as the original: its worker, its qmeventd, its HA, its slow storages."""

import fcntl
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from breakglass.agents.pve.host.pve_tasks import parse_task
from breakglass.demo.proxmox.processes import name_of, processes_of
from breakglass.demo.proxmox.times import SECONDS, seconds
from breakglass.demo.proxmox.world import CONF, VMID, World

from ..support.failing_tools import misbehave
from ..support.ha_services import Ha, give_ha_manager
from ..support.hung import dead_fuse
from ..support.pve_host import (
    HA_UNITS,
    HOPELESS,
    another_stop,
    await_ha_rounds,
    cleaner,
    command_line,
    conf,
    configure,
    dead_storage,
    flock_pids,
    gated_hook,
    ha_queue,
    ha_requested,
    hook,
    in_hook,
    is_settled,
    kill_ha,
    lock,
    moved,
    no_quorum,
    not_mounted,
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


@contextmanager
def in_real_time(world: World) -> Iterator[None]:
    """Have the stand-in wait as long as the original. A test ends that wait."""
    scale = world.root / "scale"
    divisor = scale.read_text()
    scale.write_text("1")
    try:
        yield
    finally:
        scale.write_text(divisor)


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


def test_the_worker_is_a_task_of_its_own_session(world: World) -> None:
    """It is called by its UPID, which the agent reads, holds the flock, and `qm` is its parent."""
    hook(world, "pre-stop", FOR_EVER)
    with another_stop(world) as person:
        pid = worker(world, "qmstop")
        task = parse_task(command_line(pid))
        assert task is not None
        assert (task.pid, task.type, task.id, task.user) == (pid, "qmstop", str(VMID), "root@pam")
        assert task.ticks == int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        assert (os.getsid(pid), os.getpgid(pid)) == (pid, pid)
        assert name_of(pid).startswith("task UPID")
        assert Path(f"/proc/{person.pid}/task/{person.pid}/children").read_text().split() == [str(pid)]
        assert (world.root / "var/log/pve/tasks/active").read_text().startswith(f"{task.upid} 0\n")


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


INTERRUPTED_EVERYWHERE = """
import os, signal, sys
from breakglass.demo.proxmox.processes import Died
from breakglass.demo.proxmox.vm import Vm
from breakglass.demo.proxmox.worker import _interrupt

left = 0

def step(frame, event, argument):
    global left
    left -= event == "line"
    if event == "line" and left == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    return step

signal.signal(signal.SIGTERM, _interrupt)
vm, interrupted, asked = Vm(sys.argv[1], int(sys.argv[2])), 0, 0
assert vm.pid  # which a worker has looked for by then: Python has loaded what it needs for that
while asked == interrupted:
    asked += 1
    left = asked
    sys.settrace(step)
    try:
        vm.monitor("query-status")
    except Died as error:
        interrupted += str(error) == "received interrupt"
    finally:
        sys.settrace(None)
print(interrupted)
"""


def test_sigterm_at_any_line_of_a_talk_with_qemu_says_nothing_else(own: World) -> None:
    """The talk ends with the error alone, wherever the signal meets it: `qm` prints what the worker prints."""
    command = [sys.executable, "-c", INTERRUPTED_EVERYWHERE, str(own.root), str(VMID)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stderr == ""
    assert int(ran.stdout) > 30


def test_sigterm_in_a_hook_only_fails_the_hook(world: World) -> None:
    """Proxmox prints a warning on stdout, and the stop continues and ends well."""
    hook(world, "pre-stop", FOR_EVER)
    with another_stop(world) as person:
        until(lambda: in_hook(world, "pre-stop"), "the hook")
        person.terminate()
        out, err = person.communicate(timeout=60)
    assert (person.returncode, err, world.pid) == (0, "", None)
    assert out.startswith("hookscript error for 102 on pre-stop: command '/var/lib/vz/snippets/hook.sh 102 pre-stop' ")


def ignores_sigterm(pid: int | None) -> bool:
    """Tell whether a process ignores SIGTERM (proc_pid_status(5), SigIgn)."""
    [mask] = re.findall(r"^SigIgn:\t([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (signal.SIGTERM - 1) & 1)


def test_sigkill_follows_where_sigterm_does_not_help(world: World) -> None:
    """The fourth signal to `qm` ends a worker that ignores the others; what the task died of is not known then."""
    misbehave(world.root, hang="stop", worker=True)
    with another_stop(world) as person:
        pid = worker(world, "qmstop")
        until(lambda: ignores_sigterm(pid), "its being deaf")
        while person.poll() is None and not has_ended(pid, 0.05):
            person.terminate()
        assert person.communicate(timeout=60)[1] == "got unexpected control message: \n"
        assert person.returncode == 255


def test_a_reader_that_went_away_ends_the_task(world: World) -> None:
    """`qm` meets a broken pipe and ends its worker: SIGTERM, then SIGKILL."""
    qemu, gate = silent(world), gated_hook(world, "pre-stop")
    with another_stop(world) as person:
        pid = worker(world, "qmstop")
        assert person.stdout is not None
        person.stdout.close()
        gate.write_text("go\n")
        assert has_ended(pid)
        assert person.wait(60) == 255
    signal_process(qemu, signal.SIGKILL)
    assert has_ended(qemu)


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


@pytest.mark.parametrize(
    "line", ["ostype: l26", TEMPLATE, "net0: virtio=BC:24:11:00:00:01,bridge=vmbr0", f"machine: pc-i440fx-9.2\n{ISO}"]
)
def test_showcmd_prints_the_command_of_a_start(world: World, line: str) -> None:
    """It does so even for a template, which no start takes, and for a VM of an older machine without its image."""
    configure(world, line)
    code, out, err = qm(world, "showcmd")
    assert (code, err) == (0, "")
    assert f"-pidfile {world.root}/run/qemu-server/{VMID}.pid" in out


@pytest.mark.real("qemu")
def test_qemus_own_words_are_on_stdout(world: World) -> None:
    """Why QEMU did not start stands there, and stderr has only that it did not."""
    bad_option(world)
    code, out, err = qm(world, "start")
    assert (code, err) == (255, "start failed: QEMU exited with code 1\n")
    assert "-nonsense: invalid option\n" in out


def test_a_held_flock_is_waited_for_and_named(world: World) -> None:
    """The wait is told on stdout, the failure on stderr."""
    with (world.root / LOCK_FILE[1:]).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        output = qm(world, "stop")
    assert output == (255, "trying to acquire lock...\n", f"can't lock file '{LOCK_FILE}' - got timeout\n")


def test_a_flock_that_is_let_go_is_taken(world: World) -> None:
    """Who waits for it stands in the kernel's queue."""
    with in_real_time(world), (world.root / LOCK_FILE[1:]).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        command = [str(world.bin / "qm"), "reset", str(VMID)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as person:
            until(lambda: flock_pids(world, waiting=True), "a second one at the flock")
            fcntl.flock(file, fcntl.LOCK_UN)
            assert person.communicate(timeout=60)[0] == "trying to acquire lock...\n OK\n"
    assert person.returncode == 0


def refused_by_pmxcfs(world: World) -> None:
    give_ha_manager(world.bin, world.root)
    for command in ("qm status 102", "qm stop 102", "pvesm status", "ha-manager status"):
        name, *words = command.split()
        ran = subprocess.run([world.bin / name, *words], capture_output=True, text=True)
        assert (ran.returncode, ran.stdout) == (111, "")
        assert ran.stderr.splitlines()[-1] == "Unable to load access control list: Connection refused"


def test_without_pmxcfs_nothing_works(world: World) -> None:
    """Exit 111, from each command that needs /etc/pve, while the VM runs on."""
    with not_mounted(world):
        refused_by_pmxcfs(world)
    assert world.pid is not None


@pytest.mark.real("fuse")
def test_a_dead_pmxcfs_is_as_none(world: World) -> None:
    """The mount is still there and gives ENOTCONN."""
    with dead_fuse(world.root / "etc/pve"):
        refused_by_pmxcfs(world)


def test_pending_options_are_told(world: World) -> None:
    """What a start brings in, and what it takes away."""
    conf(world).write_text("memory: 32\nserial0: socket\n\n[PENDING]\ndelete: serial0\nmemory: 64\n")
    assert qm(world, "pending")[1] == "cur memory: 32\nnew memory: 64\ndel serial0: socket\n"
    assert qm(world, "config")[1] == "memory: 32\nserial0: socket\n"


def test_a_line_that_is_unreadable_is_left_out(world: World) -> None:
    """Proxmox warns of it and continues without it."""
    conf(world).write_text("this is not a line\nmemory: 192x\ncores: 1y\nname: devvm\n# a note\n")
    code, out, err = qm(world, "config")
    assert (code, out) == (0, "name: devvm\n")
    assert err.splitlines() == [
        "vm 102 - unable to parse config: this is not a line",
        "vm 102 - unable to parse value of 'memory' - format error",
        "current: type check ('integer') failed - got '192x'",
        "vm 102 - unable to parse value of 'cores' - type check ('integer') failed - got '1y'",
    ]


def test_pending_options_are_the_current_ones_after_a_stop(world: World) -> None:
    """Snapshots stay as they are."""
    conf(world).write_text(f"{CONF}\n[PENDING]\ncores: 2\ndelete: boot\n\n[before]\ncores: 4\n")
    assert qm(world, "stop")[0] == 0
    assert qm(world, "pending")[1].splitlines()[:2] == ["cur cores: 2", "cur memory: 32"]
    assert "boot" not in conf(world).read_text()
    assert conf(world).read_text().endswith("\n[before]\ncores: 4\n")


def test_another_nodes_vm_is_not_found(world: World) -> None:
    moved(world)
    code, out, err = qm(world, "stop")
    assert (code, out, err.startswith("Configuration file 'nodes/")) == (255, "", True)


def test_the_task_log_is_in_the_originals_order(world: World) -> None:
    """`index` is oldest first; `active` newest first, and has what ended as well."""
    assert [qm(world, verb)[0] for verb in ("stop", "start", "reset")] == [0, 0, 0]
    tasks = world.root / "var/log/pve/tasks"
    index, active = [(tasks / name).read_text().splitlines() for name in ("index", "active")]
    assert [line.split(":")[5] for line in index] == ["qmstop", "qmstart", "qmreset"]
    assert [line.split(":")[5] for line in active] == ["qmreset", "qmstart", "qmstop"]
    for line in index:
        assert line.endswith(" OK")
    for line in active:
        assert line.split()[1] == "1"


def test_the_start_between_two_tests_is_not_in_the_task_log(world: World) -> None:
    assert qm(world, "stop")[0] == 0
    restore(world)
    assert world.pid is not None
    assert not (world.root / "var/log/pve").exists()


# --- qmeventd ---


def test_what_a_killed_qemu_leaves_is_cleaned_up(world: World) -> None:
    """Its files go, but for the serial console's, and the VM stays off."""
    serial = world.root / f"run/qemu-server/{VMID}.serial0"
    serial.touch()
    signal_process(world.pid, signal.SIGKILL)
    until(lambda: sorted(serial.parent.iterdir()) == [serial], "a cleanup")
    until(lambda: list(processes_of(str(world.root))) == [], "qmeventd's end")
    assert qm(world, "status") == (0, "status: stopped\n", "")


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


@pytest.mark.real("qemu")
def test_without_the_word_the_vm_stays_off(world: World) -> None:
    """Who removes it in time has a VM that is stopped."""
    with Witness(world) as witness, another_stop(world, "reboot", "--timeout", "3000") as person:
        witness.wait("POWERDOWN")
        reboot_pending(world).unlink()
        signal_process(world.pid, signal.SIGKILL)
        assert person.wait(60) == 0
    until(lambda: list(processes_of(str(world.root))) == [], "qmeventd's end")
    assert world.pid is None


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


def test_ha_stops_a_wedged_vm_by_the_whole_ladder(world: World) -> None:
    """The request's own time comes first, then all of `qm stop`."""
    under_ha(world)
    qemu, gate = silent(world), gated_hook(world, "pre-stop")
    assert qm(world, "stop")[0] == 0
    until(lambda: worker(world, "qmstop"), "the LRM's task")
    gate.write_text("go\n")
    assert has_ended(qemu)


def test_a_shutdown_under_ha_ends_by_force(world: World) -> None:
    under_ha(world)
    gate = gated_hook(world, "pre-stop")
    assert qm(world, "shutdown", "--timeout", "20")[1] == "Requesting HA stop for VM 102\n"
    until(lambda: worker(world, "qmshutdown"), "the LRM's task")
    gate.write_text("go\n")
    until(lambda: world.pid is None, "the end")


def test_ha_that_is_disarmed_and_ignores_leaves_it_to_qm(world: World) -> None:
    under_ha(world, disarm="ignore")
    assert "disarmed, resource mode: ignore" in subprocess.check_output([world.bin / "ha-manager", "status"], text=True)
    assert qm(world, "stop") == (0, "", "")
    assert world.pid is None


def test_ha_that_is_disarmed_and_frozen_does_nothing(world: World) -> None:
    """It takes the request, as when it is armed."""
    under_ha(world, seen="freeze", disarm="freeze")
    assert qm(world, "stop")[1] == "Requesting HA stop for VM 102\n"
    assert ha_queue(world) == f"stop vm:{VMID} 0\n"
    systemctl(world, "start", *HA_UNITS)
    until(lambda: not ha_queue(world), "the manager's look at its queue")
    await_ha_rounds(world)
    assert not has_ended(world.pid or 0, 0)


def test_ha_writes_the_time_of_each_round(world: World) -> None:
    """HA writes whole seconds in both files, which name what else `ha-manager status` prints."""
    under_ha(world)
    await_ha_rounds(world)
    ha = Ha(str(world.root))
    manager, lrm = ha.read_status(ha.manager), ha.read_status(ha.lrm)
    assert [type(status["timestamp"]) for status in (manager, lrm)] == [int, int]
    assert (lrm["state"], lrm["mode"], manager["master_node"]) == ("active", "active", "demo")
    shown = subprocess.check_output([world.bin / "ha-manager", "status"], text=True)
    assert "master demo (active, " in shown
    assert "lrm demo (active, " in shown


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


@pytest.mark.all
def test_a_service_of_ha_that_was_killed_waits_for_its_own_lock(world: World) -> None:
    """The dead one gave nothing back, so the lock is free after two minutes; `systemctl stop` gives it back."""
    under_ha(world, lock=1000)
    await_ha_rounds(world)
    kill_ha(world, HA_UNITS[0])
    systemctl(world, "start", HA_UNITS[0])
    assert qm(world, "stop")[0] == 0
    lrm = Ha(str(world.root)).lrm
    await_ha_rounds(world, of=lrm)
    assert ha_queue(world) == f"stop vm:{VMID} 0\n"
    systemctl(world, "stop", HA_UNITS[0])
    shutil.rmtree(world.root / "etc/pve/priv/lock/ha_manager_lock")
    systemctl(world, "start", HA_UNITS[0])
    until(lambda: world.pid is None, "HA's stop")


def test_ha_starts_again_what_has_ended(world: World) -> None:
    """The manager asks its LRM for it anew in each round; a stop of the LRM freezes it, and a start takes it up."""
    under_ha(world)
    assert qm(world, "stop")[0] == 0
    until(lambda: world.pid is None, "HA's stop")
    assert qm(world, "start")[0] == 0
    until(lambda: world.pid is not None and not flock_pids(world), "HA's start")
    systemctl(world, "stop", HA_UNITS[1])
    ha = Ha(str(world.root))
    assert (ha.read_state(f"vm:{VMID}"), ha.read_status(ha.lrm)["mode"]) == ("freeze", "restart")
    before = world.pid
    signal_process(before, signal.SIGKILL)
    systemctl(world, "start", HA_UNITS[1])
    until(lambda: world.pid not in (None, before), "HA's start")


# --- storages ---


def pvesm(world: World, *words: str) -> tuple[int, list[list[str]], str]:
    ran = subprocess.run([world.bin / "pvesm", "status", *words], capture_output=True, text=True)
    return ran.returncode, [line.split()[:3] for line in ran.stdout.splitlines()[1:]], ran.stderr


def test_a_dead_storage_is_told_when_all_are_asked(world: World) -> None:
    """It has nothing to do with the one that the VM is on, whose line says so; every one is asked all the same."""
    dead_storage(world)
    offline = "storage 'nas' is not online\n"
    local, nas = ["local", "dir", "active"], ["nas", "nfs", "inactive"]
    assert pvesm(world) == (0, [local, nas], offline)
    assert pvesm(world, "--storage", "nas") == (0, [nas], offline)
    assert pvesm(world, "--storage", "local") == (0, [local], offline)


def test_a_hung_storage_hides_all_of_them(world: World) -> None:
    """No status comes, not even that of another storage, for every one is asked; its list does."""
    dead_storage(world, how="hung")
    with ExitStack() as stack:
        asking = []
        for words in ([], ["--storage", "local"]):
            asking.append(stack.enter_context(subprocess.Popen([world.bin / "pvesm", "status", *words])))
            stack.callback(asking[-1].kill)
        about_one = [str(world.bin / "pvesm"), "list", "local", "--vmid", str(VMID), "--content", "images"]
        assert subprocess.run(about_one, capture_output=True, timeout=60).returncode == 0
        assert [each.poll() for each in asking] == [None, None]


# --- times, and the end ---


def processor_time() -> float:
    """Return what the commands that have ended took of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_each_time_is_scaled_and_each_command_costs_what_it_shall(world: World) -> None:
    root = str(world.root)
    assert {name: seconds(root, name) * SCALE for name in SECONDS} == pytest.approx(SECONDS)
    before = processor_time()
    (world.root / "cost").write_text("0.3")
    try:
        assert qm(world, "status")[0] == 0
    finally:
        (world.root / "cost").unlink()
    assert processor_time() - before > 0.25


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


def test_a_watcher_ends_with_its_directory(short_dir: Path) -> None:
    """A test that removed its host under a VM leaves no process that looks for it."""
    with closing(World(short_dir / "w", scale=SCALE)) as world:
        assert qm(world, "start")[0] == 0
        pid = world.pid or 0
        shutil.rmtree(short_dir / "w")
        signal_process(pid, signal.SIGKILL)
        until(lambda: list(processes_of(str(world.root))) == [], "qmeventd's end")
        assert not world.root.exists()
