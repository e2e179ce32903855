"""How Proxmox's commands fail in tests, as a plugin of the stand-ins (`handler/demo/proxmox/plugin.py`).

Tests import it to ask for a failure: `misbehave` for `qm`, `misbehave_ha` for HA, `break_storage` for a storage. Each
writes a file below the world's root. The stand-ins load this file by its path and read what was asked for there, so
it imports nothing but the standard library and the stand-ins.
"""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from breakglass.demo.proxmox.errors import Died
from breakglass.demo.proxmox.plugin import Plugin
from breakglass.demo.proxmox.times import SECONDS, scaled, seconds

# --- what a test asks for ---


def misbehave(root: Path, **mode: object) -> None:
    """Have `qm` fail; without words, let it behave.

    `mode=NAME` is one of MODES. `hang=VERB` sleeps for ever: `qm` itself, before there is a task. With `worker=True` it
    is the worker instead, which holds the flock and ignores SIGTERM. `hang="all"` hangs every command that needs
    /etc/pve. `fail={VERB: TEXT}` dies with the text. `gate=VERB` waits until the FIFO `<root>/gate` is opened.
    `times=1` fails once.
    """
    if mode:
        _ask(root, "qm.json", mode)
    else:
        (root / "qm.json").unlink(missing_ok=True)


def misbehave_ha(root: Path, **mode: object) -> None:
    """Have HA fail. `round=SECONDS`: how late its LRM begins a task. `deaf=True`: it takes requests and does nothing.
    `takes=True`: it changes the requested state and does no more. `moves=NODE`: it starts the VM on that node."""
    _ask(root, "ha.json", mode)


def break_storage(root: Path, name: str, how: str) -> None:
    """Have a storage fail: a `dead` one is found offline after a while, as an NFS server that drops packets; a `hung`
    one never answers."""
    _ask(root, "storage.json", {how: [name]})


def _ask(root: Path, name: str, what: dict[str, object]) -> None:
    if not (root / "plugin").is_symlink():
        (root / "plugin").symlink_to(__file__)
    (root / name).write_text(json.dumps(what))


# --- the failures of qm ---


class Mode(NamedTuple):
    """One way in which `qm` fails: in `verbs` (all, if empty) it says `words` and exits with `code`.

    The last of `words` is the error; what is said before it is a task's output, on stdout. `how` is what it does
    instead: `hang`, `ignore-term`, `hold-pipe` (ends, while a child keeps its output open), `after` (does the verb
    first), `unproven` (forgets the VM and leaves its process), `in-haste` (the same ladder, within a second).
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
_BEFORE_THE_TASK = ("not-root", "no-quorum")
_OF_QM_ITSELF = ("hang", "ignore-term", "hold-pipe")
_TASKS = ("start", "stop", "reset", "shutdown", "reboot")


class FailingTools(Plugin):
    """The stand-ins' plugin: each command does what `misbehave` and its siblings asked for."""

    def before(self, root: str, tool: str, words: list[str]) -> None:
        """Fail before there is a task; `pvesh` fails as `qm status` does."""
        if tool == "pve-ha-lrm":
            SECONDS["ha-round"] = float(_read(root, "ha.json").get("round", SECONDS["ha-round"]))
            return
        asked = _read(root, "qm.json")
        if asked.get("hang") == "all" or asked.get("mode") == "hangs":
            _hang(ignore_term=True)
        if tool == "qm":
            _fail_before_task(root, asked, words[0], words[1])
        elif tool == "pvesh" and words[1].endswith("/status/current"):
            _fail_before_task(root, asked, "status", words[1].split("/")[4])

    def do_step(self, step: str, root: str, vmid: int, verb: str, work: Callable[[], None]) -> None:
        """Do a task, or a round of HA, in the way that was asked for."""
        if step == "task":
            _do_task(root, vmid, verb, work)
            return
        asked = _read(root, "ha.json")
        if asked.get("deaf") or (asked.get("takes") and step == "lrm"):
            return
        if step == "lrm" and verb == "start" and asked.get("moves"):
            _move(root, vmid, asked["moves"])
            return
        work()

    def is_online(self, root: str, storage: str) -> bool:
        """Tell whether a storage answers; wait as long as Proxmox does for one that is dead."""
        asked = _read(root, "storage.json")
        while storage in asked.get("hung", ()):
            signal.pause()
        if storage not in asked.get("dead", ()):
            return True
        time.sleep(seconds(root, "storage"))
        return False


PLUGIN = FailingTools()


def _read(root: str, name: str) -> dict[str, Any]:
    try:
        with open(f"{root}/{name}", encoding="utf-8") as file:
            asked: dict[str, Any] = json.load(file)
            return asked
    except FileNotFoundError:
        return {}


def _fail_before_task(root: str, asked: dict[str, Any], verb: str, vmid: str) -> None:
    """Fail as `qm` itself does: for a task, only where the mode is not one of the worker's."""
    if asked.get("hang") == verb and not asked.get("worker"):
        _hang(ignore_term=True)
    mode = _mode_of(asked, verb)
    if mode is None:
        return
    if mode.how not in _OF_QM_ITSELF and verb in _TASKS and asked.get("mode") not in _BEFORE_THE_TASK:
        return
    _spend(root, asked)
    if mode.how in ("hang", "ignore-term"):
        _hang(ignore_term=mode.how == "ignore-term")
    if mode.how == "hold-pipe":
        os.posix_spawnp("sleep", ["sleep", "5"], os.environ)
        return
    raise Died("\n".join(mode.words).format(vmid=vmid), mode.code)


def _do_task(root: str, vmid: int, verb: str, work: Callable[[], None]) -> None:
    """Do the task, which holds the flock, or fail in it."""
    asked = _read(root, "qm.json")
    if asked.get("gate") == verb:
        with open(f"{root}/gate", encoding="ascii"):
            pass
    if asked.get("hang") == verb:
        _hang(ignore_term=True)
    mode = _mode_of(asked, verb)
    if mode is None or mode.how in _OF_QM_ITSELF:
        work()
        return
    _spend(root, asked)
    match mode.how:
        case "in-haste":
            _hasten_stop(root)
            work()
        case "unproven":
            _forget(root, vmid)
        case "after":
            work()
    _say(mode, vmid)


def _say(mode: Mode, vmid: int) -> None:
    """Say what the mode says, and die of its last line."""
    from breakglass.demo.proxmox.vm import say

    *output, error = [line.format(vmid=vmid) for line in mode.words] or [""]
    for line in output:
        say(line)
    if error:
        raise Died(error)


def _hasten_stop(root: str) -> None:
    """Have the ladder of a stop take less than a second of this host's time."""
    SECONDS.update(dict.fromkeys(("qmp-quit", "stop", "sigterm"), 0.3 / scaled(root, 1)))


def _forget(root: str, vmid: int) -> None:
    """Forget the VM, as after a stop, and leave its process."""
    from breakglass.demo.proxmox.power import clean_up
    from breakglass.demo.proxmox.vm import Vm

    clean_up(Vm(root, vmid))


def _mode_of(asked: dict[str, Any], verb: str) -> Mode | None:
    """Return how the verb fails, if it does."""
    if text := asked.get("fail", {}).get(verb):
        return Mode((verb,), (text,))
    mode = MODES.get(asked.get("mode", ""))
    return mode if mode and (not mode.verbs or verb in mode.verbs) else None


def _spend(root: str, asked: dict[str, Any]) -> None:
    """Behave from now on, where a test asked for one failure."""
    if asked.get("times") == 1:
        os.unlink(f"{root}/qm.json")


def _hang(ignore_term: bool) -> None:
    if ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


# --- the failures of HA ---


def _move(root: str, vmid: int, node: str) -> None:
    """Move the configuration to another node, as a recovery or a rebalancing start does."""
    there = f"{root}/etc/pve/nodes/{node}/qemu-server"
    os.makedirs(there, exist_ok=True)
    os.rename(f"{root}/etc/pve/qemu-server/{vmid}.conf", f"{there}/{vmid}.conf")
    with open(f"{root}/etc/pve/.vmlist", "w", encoding="utf-8") as file:
        json.dump({"version": 2, "ids": {vmid: {"node": node, "type": "qemu", "version": 1}}}, file)
