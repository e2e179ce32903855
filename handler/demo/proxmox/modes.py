"""How the stand-in `qm` fails, as a table: what Proxmox says then (qemu-server 9.2.6), and what it does besides.

`<root>/qm.json` chooses: {"mode": NAME} is one of MODES, {"hang": VERB} sleeps for ever, {"fail": {VERB: TEXT}} dies
with the text, {"gate": VERB} waits until somebody opens the FIFO `<root>/gate`; "times": 1 does so once. Whoever hangs
is `qm` itself, before there is a task; with {"hang": VERB, "worker": true} it is the worker, which holds the flock and
pays no heed to SIGTERM. What is said before the last of `words` is a task's output, on stdout; the last is its error.
"""

import json
import os
import signal
from typing import Any, NamedTuple

from .errors import Died
from .vm import Vm, say


class Mode(NamedTuple):
    """One way in which `qm` fails: in `verbs` (all without any) it says `words` and exits with `code`. `how` is what it
    does instead of that: `hang`, `ignore-term`, `hold-pipe` (ends, while a child keeps its output open), `after` (does
    the verb first), `unproven` (forgets the VM and leaves its process), `in-haste` (the same ladder, within a second).
    """

    verbs: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    how: str = ""
    code: int = 255


MODES = {
    "not-root": Mode(words=("please run as root",)),
    "flock-timeout": Mode(
        ("start", "stop", "reset"),
        ("trying to acquire lock...", "can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout"),
    ),
    "no-quorum": Mode(("start",), ("cluster not ready - no quorum?",), code=2),
    "qemu-exits": Mode(("start",), ("kvm: -nonsense: invalid option", "start failed: QEMU exited with code 1")),
    "systemd-timeout": Mode(("start",), ("timeout waiting on systemd",)),
    "somebody-was-faster": Mode(("start",), ("VM {vmid} already running",), "after"),
    "stop-fails": Mode(("stop",), ("VM quit/powerdown failed - got timeout",)),
    "stop-unproven": Mode(("stop",), how="unproven"),
    "stop-in-haste": Mode(("stop",), how="in-haste"),
    "stop-hangs": Mode(("stop",), how="hang"),
    "stop-ignores-term": Mode(("stop",), how="ignore-term"),
    "start-hangs": Mode(("start",), how="ignore-term"),
    "hangs": Mode(how="ignore-term"),
    "holds-pipe": Mode(("stop", "start"), how="hold-pipe"),
}


def asked_of(root: str) -> dict[str, Any]:
    try:
        with open(f"{root}/qm.json", encoding="utf-8") as file:
            asked: dict[str, Any] = json.load(file)
            return asked
    except FileNotFoundError:
        return {}


_BEFORE_THE_TASK = ("not-root", "no-quorum")
_OF_QM_ITSELF = ("hang", "ignore-term", "hold-pipe")


def misbehave(vm: Vm, verb: str) -> str:
    """Do what the test or the rehearsal asked of `qm` itself, before there is a task; return how the task shall go on
    ("" for what it finds out itself)."""
    asked = asked_of(vm.root)
    if asked.get("hang") in (verb, "all") and not asked.get("worker"):
        hang(ignore_term=True)
    mode = mode_of(asked, verb)
    if mode is None:
        return ""
    is_task = verb in ("start", "stop", "reset", "shutdown", "reboot")
    if mode.how not in _OF_QM_ITSELF and is_task and asked.get("mode") not in _BEFORE_THE_TASK:
        return ""
    spend(vm, asked)
    if mode.how in ("hang", "ignore-term"):
        hang(ignore_term=mode.how == "ignore-term")
    if mode.how == "hold-pipe":
        import subprocess

        subprocess.Popen(["sleep", "5"])
        return mode.how
    raise Died("\n".join(mode.words).format(vmid=vm.vmid), mode.code)


def misbehave_at_work(vm: Vm, verb: str) -> str:
    """Do what was asked of the task, which holds the flock; return how the verb shall go on."""
    asked = asked_of(vm.root)
    if asked.get("gate") == verb:
        with open(f"{vm.root}/gate", encoding="ascii"):
            pass
    if asked.get("hang") in (verb, "all"):
        hang(ignore_term=True)
    mode = mode_of(asked, verb)
    if mode is None:
        return ""
    spend(vm, asked)
    if mode.how == "in-haste":
        vm.quit_seconds = vm.stop_seconds = vm.term_seconds = 0.3
    if not mode.how:
        *said, error = [line.format(vmid=vm.vmid) for line in mode.words]
        for line in said:
            say(line)
        raise Died(error)
    return mode.how


def mode_of(asked: dict[str, Any], verb: str) -> Mode | None:
    """Return how the verb fails, if it does."""
    if text := asked.get("fail", {}).get(verb):
        return Mode((verb,), (text,))
    mode = MODES.get(asked.get("mode", ""))
    return mode if mode and (not mode.verbs or verb in mode.verbs) else None


def spend(vm: Vm, asked: dict[str, Any]) -> None:
    """Behave from now on, where it was to fail once."""
    if asked.get("times") == 1:
        os.unlink(f"{vm.root}/qm.json")


def hang_with_all(root: str) -> None:
    """Hang when everything does that needs /etc/pve, `ha-manager` and `pvesh` as well."""
    asked = asked_of(root)
    if asked.get("hang") == "all" or asked.get("mode") == "hangs":
        hang(ignore_term=True)


def hang(ignore_term: bool) -> None:
    if ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()
