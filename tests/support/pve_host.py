"""Sets up a Proxmox host's files for a test, such as a lock, HA, another node or a task, and restores them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from breakglass.demo.proxmox.processes import ROOT, end_processes, name_of, processes_of
from breakglass.demo.proxmox.world import CONF, STORAGES, VMID, World

from .failing_tools import misbehave, misbehave_ha
from .ha_services import Ha, give_ha_manager, program
from .signals import signal_process
from .stages import until

# A process with a command line as of a PVE task, and with a UPID that names it, because exec keeps pid and start time.
_TASK = """
import ctypes, os, sys
kind, action = sys.argv[1:]
ticks = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
upid = f"UPID:demo:{os.getpid():08X}:{ticks:08X}:6743E000:{kind}:root@pam:"
code = f"import ctypes; ctypes.CDLL(None).prctl(15, {'task ' + upid!r}[:15].encode()); {action}"
os.execv(sys.executable, [f"task {upid}", "-c", code])
"""
HA_UNITS = ("pve-ha-crm", "pve-ha-lrm")
_WAIT = "print('up', flush=True); input()"


def conf(world: World) -> Path:
    return world.root / f"etc/pve/nodes/demo/qemu-server/{VMID}.conf"


def lock(world: World, kind: str) -> None:
    conf(world).write_text(f"lock: {kind}\n{CONF}")


def configure(world: World, *lines: str) -> None:
    """Add lines to the VM's configuration."""
    conf(world).write_text(conf(world).read_text() + "".join(f"{line}\n" for line in lines))


# Configurations with which Proxmox refuses to start the VM: the line, and the error of `qm start`.
HOPELESS = {
    "iso": ("ide2: local:iso/gone.iso,media=cdrom,size=4M", "volume 'local:iso/gone.iso' does not exist"),
    "bridge": ("net0: virtio=BC:24:11:00:00:01,bridge=vmbr9", "bridge 'vmbr9' does not exist"),
    "hugepages": ("hugepages: 2", "numa needs to be enabled to use hugepages"),
    "template": ("template: 1", "you can't start a vm if it's a template"),
}


def under_ha(
    world: World,
    requested: str = "started",
    seen: str = "started",
    *,
    dead: tuple[str, ...] = (),
    silent: float = 5,
    **mode: object,
) -> None:
    """Put the VM under HA; `mode` is how HA misbehaves (see `misbehave_ha`), or nodes=STATES.

    The rounds of its services take Proxmox's time, divided by the scale if the host has one. Services in `dead` last
    wrote `silent` seconds ago. If HA would leave the state at once, its
    services don't run, but seem to have just written.
    """
    if world.scale == 1:
        mode = {"round": 0.2, "lock": 2, **mode}
    give_ha_manager(world.bin, world.root)
    ha = world.root / "etc/pve/ha"
    ha.mkdir(exist_ok=True)
    (ha / "resources.cfg").write_text(
        f"vm: {VMID}\n\tmax_restart 1\n\tstate {requested}\n\nct: 9{VMID}\n\tstate stopped\n"
    )
    status: dict[str, object] = {"service_status": {f"vm:{VMID}": {"state": seen, "node": "demo"}}}
    status["node_status"] = mode.pop("nodes", {"demo": "online"})
    alive = [] if requested != seen else [unit for unit in HA_UNITS if unit not in dead]
    now = int(time.time() + float(str(mode.get("clock", 0))))
    status |= {"master_node": "demo", "timestamp": now - int(silent if HA_UNITS[0] in dead else 0)}
    (ha / "manager_status").write_text(json.dumps(status))
    own = {
        "state": "active",
        "mode": "active",
        "results": {},
        "timestamp": now - int(silent if HA_UNITS[1] in dead else 0),
    }
    (world.root / "etc/pve/nodes/demo/lrm_status").write_text(json.dumps(own))
    if mode:
        misbehave_ha(world.root, **mode)
    for unit in HA_UNITS:  # even for a dead service, because it hangs and systemd does not see that
        (world.root / f"run/{unit}.pid").touch()
    if alive:
        systemctl(world, "start", *alive)


def systemctl(world: World, verb: str, *units: str) -> None:
    """Start or stop services of HA, as a person does."""
    mark = {ROOT: str(world.root)}  # the mark of every command of the host, by which it is ended
    subprocess.run(program(str(world.root), "systemctl", verb, *units), check=True, env=os.environ | mark)


def kill_ha(world: World, *units: str) -> None:
    """Kill services of HA. Their files and their locks stay unchanged, but systemd removes their pid files."""
    pids = [pid for pid in processes_of(str(world.root)) if name_of(pid) in units]
    for pid in pids:
        signal_process(pid, signal.SIGKILL)
    until(lambda: not any(name_of(pid) in units for pid in pids), "the end of HA's services")
    for unit in units:
        (world.root / f"run/{unit}.pid").unlink(missing_ok=True)


def await_ha_rounds(world: World, count: int = 2, of: str = "") -> None:
    """Return once HA's manager, or the service that writes `of`, has done this many more whole rounds."""
    ha = Ha(str(world.root))
    path = of or ha.manager
    for _ in range(count):
        before = ha.read_status(path).get("timestamp")
        until(lambda then=before: ha.read_status(path).get("timestamp") != then, "a round of HA")  # type: ignore[misc]


def ha_queue(world: World) -> str:
    """Return the requests that HA's manager has not read yet."""
    queue = world.root / "etc/pve/ha/crm_commands"
    return queue.read_text() if queue.exists() else ""


def ha_requested(world: World) -> str:
    """Return the state that is requested of the VM."""
    return Ha(str(world.root)).requested()[f"vm:{VMID}"]


def moved(world: World, node: str = "pve2", lock: str = "") -> None:
    """Give the VM's configuration to another node. The VM continues to run here, as after a person's `mv`.

    With the `lock` migrate, this is the state during a live migration until the source's QEMU has ended.
    """
    if lock:
        conf(world).write_text(f"lock: {lock}\n{CONF}")
    theirs = world.root / f"etc/pve/nodes/{node}/qemu-server"
    theirs.mkdir(parents=True, exist_ok=True)
    conf(world).rename(theirs / conf(world).name)
    ids = {str(VMID): {"node": node, "type": "qemu", "version": 3}}
    (world.root / "etc/pve/.vmlist").write_text(json.dumps({"version": 1, "ids": ids}))


def no_quorum(world: World) -> None:
    (world.root / "etc/pve/nodes/demo").chmod(0o555)


@contextmanager
def not_mounted(world: World) -> Iterator[None]:
    """Put an empty directory at /etc/pve, as on a host whose pmxcfs is not running."""
    mounted, away = world.root / "etc/pve", world.root / "etc/pve.away"
    mounted.rename(away)
    mounted.mkdir()
    try:
        yield
    finally:
        mounted.rmdir()
        away.rename(mounted)


def task_index(world: World, *lines: str) -> None:
    """Write these lines to the task index, or if none are given, one line of another VM's task that ended well."""
    tasks = world.root / "var/log/pve/tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    other = "UPID:demo:00000001:00000001:6743E000:qmstart:999:root@pam: 6743E001 OK"
    (tasks / "index").write_text(other + "\n")
    (tasks / "active").write_text("".join(f"{line}\n" for line in lines))


@contextmanager
def task(kind: str, action: str = _WAIT) -> Iterator[str]:
    """Run a task of PVE, such as `vzdump:102`, that does `action`. Yield its UPID."""
    command = [sys.executable, "-c", _TASK, kind, action]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        name = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")[0]
        try:
            yield name.removeprefix("task ")
        finally:
            process.kill()


def dead_upid(kind: str) -> str:
    """Return the UPID of a task whose process is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return f"UPID:demo:{process.pid:08X}:00000001:6743E000:{kind}:root@pam:"


# --- processes that work on the VM ---


def hook(world: World, phase: str, seconds: float, then: str = "exit 0") -> None:
    """Give the VM a hook script that takes this many of Proxmox's seconds in one phase, and ends with `then`.

    `then="exit 1"` fails; `seconds=inf` never ends. Once it is in that phase, `<root>/hook-PHASE` exists.
    """
    here = world.root / f"hook-{phase}"
    sleep = "while :; do sleep 1000; done" if seconds == float("inf") else f"sleep {seconds / world.scale:.3f}"
    script = world.root / "hookscript"
    script.write_text(f'#!/bin/sh\n[ "$2" = {phase} ] || exit 0\n: > {here}\n{sleep}\n{then}\n')
    script.chmod(0o755)
    text = conf(world).read_text()
    conf(world).write_text(text + ("" if "hookscript" in text else "hookscript: local:snippets/hook.sh\n"))


def gated_hook(world: World, phase: str) -> Path:
    """Give the VM a hook script that waits in one phase for a line from a FIFO. Return the FIFO."""
    gate = world.root / "hook-gate"
    os.mkfifo(gate)
    hook(world, phase, 0, f"read -r go < {gate}")
    return gate


def in_hook(world: World, phase: str) -> bool:
    """Tell whether the hook script has reached that phase."""
    return (world.root / f"hook-{phase}").exists()


def scope(world: World) -> Path:
    """Return the file that lists the processes of the VM's scope. A test can write the pid of a leftover into it."""
    return world.root / f"sys/fs/cgroup/qemu.slice/{VMID}.scope/cgroup.procs"


def reboot_pending(world: World) -> Path:
    """Return the file that makes qmeventd start the VM again when its QEMU ends."""
    return world.root / f"run/qemu-server/{VMID}.reboot"


def flock_pids(world: World, waiting: bool = False) -> list[int]:
    """Return the pids that hold the flock of the VM's configuration, or that wait for it, by /proc/locks."""
    try:
        inode = (world.root / f"var/lock/qemu-server/lock-{VMID}.conf").stat().st_ino
    except FileNotFoundError:
        return []
    found = []
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[-3].endswith(f":{inode}") and ("->" in words) is waiting:
            found.append(int(words[-4]))
    return found


def command_line(pid: int) -> str:
    """Return a process's command line as ps shows it, or an empty text if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def worker(world: World, kind: str = "qm") -> int:
    """Return the pid of the task that holds the flock, or 0 if there is none."""
    names = {pid: command_line(pid) for pid in flock_pids(world)}
    return next((pid for pid, name in names.items() if name.startswith("task UPID") and f":{kind}" in name), 0)


def qmeventd(world: World) -> int:
    """Return the pid of the process that waits for the VM's QEMU to end, or 0 if there is none."""
    return next((pid for pid in processes_of(str(world.root)) if name_of(pid) == "qmeventd"), 0)


def end_qmeventd(world: World) -> None:
    """Kill the host's event daemon, so that no process waits for the end of this QEMU of the VM or of the next."""
    (world.root / "qmeventd-is-dead").touch()
    pid = qmeventd(world)
    signal_process(pid, signal.SIGKILL)
    until(lambda: qmeventd(world) == 0, "the end of the event daemon")


def cleaner(world: World) -> int:
    """Return the pid of qmeventd's `qm cleanup` that holds the flock, or 0 if there is none."""
    return next((pid for pid in flock_pids(world) if "qm cleanup" in command_line(pid)), 0)


@contextmanager
def another_stop(world: World, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a `qm` command as a person does, in its own session, such as `stop` or `reboot --timeout 300`.

    Continues once its worker holds the flock and `qm` forwards signals. At the end, kills its remaining processes.
    """
    verb, *options = words or ("stop",)
    command, at_work = [str(world.bin / "qm"), verb, str(VMID), *options], 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as qm:
        try:
            until(lambda: worker(world, f"qm{verb}") and _passes_on(qm.pid), f"a task qm{verb}")
            at_work = worker(world, f"qm{verb}")
            yield qm
        finally:
            qm.kill()
            if at_work in flock_pids(world):
                signal_process(at_work, signal.SIGKILL)


def _passes_on(pid: int) -> bool:
    """Tell whether `qm` waits for its worker with a handler for SIGTERM (proc(5), SigCgt)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")), 0)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@contextmanager
def another_cleanup(world: World) -> Iterator[int]:
    """Run qmeventd's `qm cleanup` while a QEMU runs, as after a quick restart. Yield its pid."""
    command = [str(world.bin / "qm"), "cleanup", str(VMID), "1", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: cleaner(world), "a cleanup that holds the lock file")
            yield cleaner(world)
        finally:
            process.kill()


def quiet(world: World) -> None:
    """End the processes that work on the VM: tasks, hook scripts, HA, qmeventd's cleanup. The VM itself continues."""
    running = {name_of(world.pid)} if world.pid else set()
    end_processes(str(world.root), spared=("qmeventd", *running))


def is_settled(world: World) -> bool:
    """Tell whether Proxmox's only processes are a VM that runs and the process that watches it."""
    return set(processes_of(str(world.root))) <= ({world.pid, qmeventd(world)} if world.pid else set())


def restore(world: World) -> None:
    """Undo a test's changes to the host, and run its VM.

    If a test has killed a QEMU, the cleanup after it must end first, because it would wait for the end of the next QEMU
    and hold the flock.
    """
    misbehave(world.root)
    quiet(world)
    node = world.root / "etc/pve/nodes/demo"
    node.chmod(0o755)
    conf(world).write_text(CONF)
    for other in node.parent.iterdir():
        if other != node:
            shutil.rmtree(other)
    (world.root / "etc/pve/storage.cfg").write_text(STORAGES)
    for path in ("etc/pve/ha", "etc/pve/priv/lock"):
        shutil.rmtree(world.root / path, ignore_errors=True)
    left = [path.name for path in world.root.glob("hook-*")]
    for name in (
        "etc/pve/.vmlist",
        "etc/pve/nodes/demo/lrm_status",
        "ha.json",
        "gate",
        "storage.json",
        "plugin",
        "hookscript",
        "qmeventd-is-dead",
        *left,
    ):
        (world.root / name).unlink(missing_ok=True)
    reboot_pending(world).unlink(missing_ok=True)
    if world.pid is not None:
        signal_process(world.pid, signal.SIGCONT)
    until(lambda: is_settled(world), "the end of what the test began")
    if world.pid is None:
        scope(world).unlink(missing_ok=True)
        started = world.qm("start", str(VMID))
        assert started.returncode == 0, started.stderr
    world.monitor("cont")
    shutil.rmtree(world.root / "var/log/pve", ignore_errors=True)  # this is last, because the start above is a task too
