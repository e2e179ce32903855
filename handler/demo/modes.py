"""How the stand-in `qm` fails, as a table: what Proxmox says then (qemu-server 9.2.6), and what it does besides.

`<root>/qm.json` chooses: {"mode": NAME} is one of MODES, {"hang": VERB} sleeps for ever, {"fail": {VERB: TEXT}} dies
with the text, {"gate": VERB} waits until somebody opens the FIFO `<root>/gate`; "times": 1 does so once.
"""

import json
import os
import signal
from typing import Any, NamedTuple

from .vm import Died, Vm


class Mode(NamedTuple):
    """One way in which `qm` fails: in `verbs` (all without any) it says `words` and exits with 255. `how` is what it
    does instead of that: `hang`, `ignore-term`, `hold-pipe` (ends, while a child keeps its output open), `after` (does
    the verb first), `unproven` (forgets the VM and leaves its process), `in-haste` (the same ladder, within a second).
    """

    verbs: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    how: str = ""


MODES = {
    "not-root": Mode(words=("please run as root",)),
    "flock-timeout": Mode(
        ("start", "stop", "reset"),
        ("trying to acquire lock...", "can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout"),
    ),
    "no-quorum": Mode(("start",), ("cluster not ready - no quorum?",)),
    "qemu-exits": Mode(("start",), ("start failed: QEMU exited with code 1",)),
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


def misbehave(vm: Vm, verb: str) -> str:
    """Do what the test or the rehearsal asked for, before the verb itself; return how the verb shall go on."""
    asked = asked_of(vm.root)
    if asked.get("gate") == verb:
        with open(f"{vm.root}/gate", encoding="ascii"):
            pass
    if asked.get("hang") in (verb, "all"):
        hang(ignore_term=True)
    mode = MODES.get(asked.get("mode", ""), Mode(("none",)))
    if text := asked.get("fail", {}).get(verb):
        mode = Mode((verb,), (text,))
    if mode.verbs and verb not in mode.verbs:
        return ""
    if asked.get("times") == 1:
        os.unlink(f"{vm.root}/qm.json")
    return apply_mode(vm, mode)


def apply_mode(vm: Vm, mode: Mode) -> str:
    if mode.how in ("hang", "ignore-term"):
        hang(ignore_term=mode.how == "ignore-term")
    if mode.how == "in-haste":
        vm.quit_seconds, vm.term_seconds = 0.3, 0.3
    if mode.how == "hold-pipe":
        import subprocess

        subprocess.Popen(["sleep", "5"])
    if not mode.how:
        raise Died(said_by(mode, vm))
    return mode.how


def said_by(mode: Mode, vm: Vm) -> str:
    return "\n".join(mode.words).format(vmid=vm.vmid)


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
