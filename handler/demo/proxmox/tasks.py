"""The verbs that `qm` runs as tasks: refusals before the task, requests to HA, and the work itself."""

import errno
import sys
from collections.abc import Callable
from functools import partial

from . import power
from .plugin import load_plugin
from .processes import Died
from .times import scaled
from .vm import Vm
from .worker import run_task

_PAUSED = ("paused", "prelaunch", "suspended")


def run(vm: Vm, verb: str, arguments: list[str], from_ha: bool = False) -> int:
    """Run a verb as a task, or a task that requests it from HA; return the exit code."""
    refuse(vm, verb, arguments)
    load_plugin(vm.root).before(vm.root, "qm", [verb, str(vm.vmid), *arguments])
    if verb in ("start", "stop", "shutdown") and not from_ha and vm.under_ha():
        request = "start" if verb == "start" else "stop"
        return run_task(vm, f"ha{request}", partial(request_from_ha, vm, verb, arguments))
    return run_task(vm, f"qm{verb}", partial(_locked_work, vm, verb, arguments))


def refuse(vm: Vm, verb: str, arguments: list[str]) -> None:
    """Raise Died if `qm` refuses the verb before it starts a task.

    Outside a task, a failed command exits with the last errno, whatever that was, or with 255 without one.
    """
    if verb == "start":
        vm.check_quorum()
    if verb in ("shutdown", "reboot") and _is_paused(vm):
        if verb == "reboot" or not _flag(arguments, "--forceStop"):
            raise Died("VM is paused - cannot shutdown", errno.ESPIPE)
        print("VM is paused - stop instead of shutdown", file=sys.stderr)
    if verb in ("reset", "reboot"):
        vm.require_config()
        if vm.pid is None:
            raise Died(f"VM {vm.vmid} not running", errno.ENOENT)


def _is_paused(vm: Vm) -> bool:
    """Tell whether the VM is paused. If its monitor doesn't tell, print why, and an empty line (vm_is_paused)."""
    try:
        vm.require_config()
        answer = vm.monitor("query-status")["return"]
    except Died as error:
        print(f"{error}\n", file=sys.stderr)
        return False
    return isinstance(answer, dict) and answer["status"] in _PAUSED


def request_from_ha(vm: Vm, verb: str, arguments: list[str]) -> None:
    """Ask HA to do the verb."""
    sid = f"vm:{vm.vmid}"
    if verb == "start":
        vm.ask_ha("start", "set", sid, "--state", "started")
    else:
        vm.ask_ha("stop", "crm-command", "stop", sid, _option(arguments, "--timeout", "60") if verb != "stop" else "0")


def _locked_work(vm: Vm, verb: str, arguments: list[str]) -> None:
    """Take the flock, then do the verb."""
    with power.take_flock(vm):
        load_plugin(vm.root).do_step("task", vm.root, vm.vmid, verb, partial(work, vm, verb, arguments))


def work(vm: Vm, verb: str, arguments: list[str]) -> None:
    """Do a verb while its flock is held."""
    limit = scaled(vm.root, float(_option(arguments, "--timeout", "60")))
    paused = verb == "shutdown" and vm.state()[0] in _PAUSED
    does: dict[str, Callable[[], None]] = {
        "start": lambda: power.start(vm),
        "reset": lambda: power.reset(vm),
        "stop": lambda: power.stop(vm, min(limit, vm.seconds("stop"))),
        "shutdown": lambda: power.stop(vm, limit, shutdown=not paused, force=_flag(arguments, "--forceStop")),
        "reboot": lambda: power.reboot(vm, limit),
    }
    does[verb]()


def _option(arguments: list[str], name: str, without: str) -> str:
    return arguments[arguments.index(name) + 1] if name in arguments else without


def _flag(arguments: list[str], name: str) -> bool:
    return name in arguments and arguments[arguments.index(name) + 1 :][:1] != ["0"]


def clean_up(vm: Vm, clean: bool) -> int:
    """Run `qm cleanup`, which is not a task; start the VM again if a reboot is pending."""
    again = power.cleanup(vm, clean, lambda line: print(line, file=sys.stderr, flush=True))
    return run(vm, "start", []) if again else 0
