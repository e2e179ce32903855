"""A stand-in for Proxmox's `qm`: its words, its exit codes, its worker, its flock, its ladder; never kinder than it.

Texts and rules: qemu-server 9.2.6 (CLI/qm.pm, API2/Qemu.pm). The VM is a real QEMU process where one is installed,
else `kvm.py`. It obeys what lies in the host's files: a configuration's `lock:` and `hookscript:`, the flock, HA's
resources, the quorum bit, a scope that is not empty. `modes.py` has the failures that must be asked for.
"""

import os
import sys
from collections.abc import Callable
from functools import partial

from . import power
from .errors import Died
from .modes import misbehave, misbehave_at_work
from .processes import name_perl
from .times import burn, scaled
from .vm import Vm
from .worker import run_task

_NO_PMXCFS = (
    *(f"ipcc_send_rec[{number}] failed: Connection refused" for number in (1, 2, 3)),
    "Unable to load access control list: Connection refused",
)


def status(vm: Vm, arguments: list[str]) -> int:
    vm.config()
    state, answers = vm.state()
    if "--verbose" not in arguments:
        print(f"status: {state}")
        return 0
    for key, value in sorted(verbose(vm, state, answers).items()):
        print(f"{key}: {value}")
    return 0


def verbose(vm: Vm, state: str, answers: bool) -> dict[str, object]:
    """Return what `qm status --verbose` tells: some of it comes from QEMU and is missing when that is silent."""
    said: dict[str, object] = {"name": vm.config().get("name", ""), "qmpstatus": state, "vmid": vm.vmid}
    said |= {"lock": lock} if (lock := vm.config().get("lock")) else {}
    said |= {"pid": vm.pid} if vm.pid else {}
    said |= {"running-machine": "pc-i440fx-10.0+pve0", "running-qemu": "10.0.0"} if answers else {}
    return said | {"status": "stopped" if state == "stopped" else "running"}


def config(vm: Vm, arguments: list[str]) -> int:
    for key, value in sorted(vm.config().items()):
        print(f"{key}: {value}")
    return 0


def pending(vm: Vm, arguments: list[str]) -> int:
    now, later = vm.config(), vm.config("PENDING")
    gone = later.pop("delete", "").split(",")
    for key in sorted({*now, *later}):
        if key in now:
            print(f"{'del' if key in gone else 'cur'} {key}: {now[key]}")
        if key in later:
            print(f"new {key}: {later[key]}")
    return 0


def cleanup(vm: Vm, arguments: list[str]) -> int:
    """Only qmeventd says this."""
    clean = arguments[:1] == ["1"]
    again = power.cleanup(vm, clean, lambda line: print(line, file=sys.stderr, flush=True))
    return task(vm, "start", []) if again else 0


TASKS = ("start", "stop", "reset", "shutdown", "reboot")
OTHERS = {"status": status, "config": config, "pending": pending, "cleanup": cleanup}


def task(vm: Vm, verb: str, arguments: list[str], from_ha: bool = False) -> int:
    """Do a verb as a task, or have HA asked to do it; return the exit code."""
    refuse(vm, verb, arguments)
    how = misbehave(vm, verb)
    if verb in ("start", "stop", "shutdown") and not from_ha and vm.under_ha():
        asked = "start" if verb == "start" else "stop"
        return run_task(vm, f"ha{asked}", partial(ask_ha, vm, verb, arguments))
    return run_task(vm, f"qm{verb}", partial(_locked_work, vm, verb, arguments, how))


def refuse(vm: Vm, verb: str, arguments: list[str]) -> None:
    """Raise Died for what `qm` refuses before there is a task."""
    if verb == "start":
        vm.check_quorum()
    if verb in ("shutdown", "reboot") and vm.state()[0] in ("paused", "prelaunch"):
        if not _flag(arguments, "--forceStop"):
            raise Died("VM is paused - cannot shutdown")
        print("VM is paused - stop instead of shutdown", file=sys.stderr)
    if verb in ("reset", "reboot") and vm.pid is None:
        vm.config()
        raise Died(f"VM {vm.vmid} not running")


def ask_ha(vm: Vm, verb: str, arguments: list[str]) -> None:
    sid = f"vm:{vm.vmid}"
    if verb == "start":
        vm.ask_ha("start", "set", sid, "--state", "started")
    else:
        vm.ask_ha("stop", "crm-command", "stop", sid, _option(arguments, "--timeout", "60") if verb != "stop" else "0")


def _locked_work(vm: Vm, verb: str, arguments: list[str], how: str) -> None:
    """Be the task: take the flock, and do the verb."""
    with power.locked(vm):
        if (how := how or misbehave_at_work(vm, verb)) != "unproven":
            work(vm, verb, arguments)
        else:
            power.clean_up(vm)
    if how == "after":
        raise Died(f"VM {vm.vmid} already running")


def work(vm: Vm, verb: str, arguments: list[str]) -> None:
    limit = scaled(vm.root, float(_option(arguments, "--timeout", "60")))
    paused = verb == "shutdown" and vm.state()[0] in ("paused", "prelaunch")
    does: dict[str, Callable[[], None]] = {
        "start": lambda: power.start(vm),
        "reset": lambda: power.reset(vm),
        "stop": lambda: power.stop(vm, min(limit, vm.stop_seconds)),
        "shutdown": lambda: power.stop(vm, limit, shutdown=not paused, force=_flag(arguments, "--forceStop")),
        "reboot": lambda: power.reboot(vm, limit),
    }
    does[verb]()


def _option(arguments: list[str], name: str, without: str) -> str:
    return arguments[arguments.index(name) + 1] if name in arguments else without


def _flag(arguments: list[str], name: str) -> bool:
    return name in arguments and arguments[arguments.index(name) + 1 :][:1] != ["0"]


def reach_pmxcfs(root: str) -> None:
    """Raise Died where /etc/pve is not mounted or its server has died; wait for ever where that hangs."""
    try:
        os.stat(f"{root}/etc/pve/local")
    except OSError:
        raise Died("\n".join(_NO_PMXCFS), 111) from None


def run(root: str, verb: str, vmid: int, arguments: list[str]) -> int:
    """Run one command and return its exit code; what it dies of is said on stderr."""
    vm = Vm(root, vmid)
    try:
        reach_pmxcfs(root)
        if verb in TASKS:
            return task(vm, verb, arguments)
        misbehave(vm, verb)
        return OTHERS[verb](vm, arguments)
    except Died as error:
        print(error, file=sys.stderr, flush=True)
        return error.code


def main() -> int:
    """`ROOT VERB VMID [OPTIONS]`."""
    root, verb, vmid, *arguments = sys.argv[1:]
    name_perl("qm", verb, vmid, *arguments)
    burn(root)
    return run(root, verb, int(vmid), arguments)
