"""Setting up a Proxmox host's files for a test: a lock, HA, another node, a task; and taking all of it back."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from handler.demo.world import CONF, VMID, World

# A process that is called what PVE calls its tasks, and whose UPID names it: exec keeps pid and start time.
_TASK = """
import ctypes, os, sys
kind, action = sys.argv[1:]
ticks = int(open("/proc/self/stat").read().rpartition(")")[2].split()[19])
upid = f"UPID:demo:{os.getpid():08X}:{ticks:08X}:6743E000:{kind}:root@pam:"
code = f"import ctypes; ctypes.CDLL(None).prctl(15, {'task ' + upid!r}[:15].encode()); {action}"
os.execv(sys.executable, [f"task {upid}", "-c", code])
"""
_WAIT = "print('up', flush=True); input()"


def conf(world: World) -> Path:
    return world.root / f"etc/pve/nodes/demo/qemu-server/{VMID}.conf"


def lock(world: World, kind: str) -> None:
    conf(world).write_text(f"lock: {kind}\n{CONF}")


def under_ha(world: World, requested: str = "started", seen: str = "started", **mode: object) -> None:
    """Put the VM under HA; `mode` is how HA misbehaves."""
    ha = world.root / "etc/pve/ha"
    ha.mkdir(exist_ok=True)
    (ha / "resources.cfg").write_text(
        f"vm: {VMID}\n\tmax_restart 1\n\tstate {requested}\n\nct: 9{VMID}\n\tstate stopped\n"
    )
    (ha / "manager_status").write_text(json.dumps({"service_status": {f"vm:{VMID}": {"state": seen, "node": "demo"}}}))
    if mode:
        (world.root / "ha.json").write_text(json.dumps(mode))


def moved(world: World, node: str = "pve2") -> None:
    """Give the VM's configuration to another node."""
    conf(world).unlink()
    ids = {str(VMID): {"node": node, "type": "qemu", "version": 3}}
    (world.root / "etc/pve/.vmlist").write_text(json.dumps({"version": 1, "ids": ids}))


def no_quorum(world: World) -> None:
    (world.root / "etc/pve/nodes/demo").chmod(0o555)


def task_index(world: World, *lines: str) -> None:
    """Write the task index; without lines, one of another VM's task that ended well."""
    tasks = world.root / "var/log/pve/tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    other = "UPID:demo:00000001:00000001:6743E000:qmstart:999:root@pam: 6743E001 OK"
    (tasks / "index").write_text(other + "\n")
    (tasks / "active").write_text("".join(f"{line}\n" for line in lines))


@contextmanager
def task(kind: str, action: str = _WAIT) -> Iterator[str]:
    """Run a task of PVE, as `vzdump:102`, that does `action`; give its UPID."""
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


def restore(world: World) -> None:
    """Take back what a test did to the host, and have its VM run."""
    world.misbehave()
    node = world.root / "etc/pve/nodes/demo"
    node.chmod(0o755)
    conf(world).write_text(CONF)
    for path in (world.root / "etc/pve/ha", world.root / "var/log/pve"):
        shutil.rmtree(path, ignore_errors=True)
    for name in ("etc/pve/.vmlist", "ha.json", "gate"):
        (world.root / name).unlink(missing_ok=True)
    if world.pid is None:
        started = world.qm("start", str(VMID))
        assert started.returncode == 0, started.stderr
    world.monitor("cont")
