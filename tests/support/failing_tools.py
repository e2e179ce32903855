"""Makes Proxmox's commands fail in tests, as a plugin of the stand-ins (`handler/demo/proxmox/plugin.py`).

A test calls `misbehave` for a failure of `qm`, and `misbehave_ha` for one of HA. Each writes the failure to a file
below the world's root. The stand-ins load this module by its path and read that file, so the module imports only the
standard library and the stand-ins.
"""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from breakglass.demo.proxmox.plugin import Plugin
from breakglass.demo.proxmox.processes import Died
from breakglass.demo.proxmox.times import SECONDS, scaled

# --- requesting a failure ---


def misbehave(root: Path, **mode: object) -> None:
    """Make `qm` fail, or without arguments, work again.

    `mode=NAME` is one of MODES. `hang=VERB` makes `qm` sleep for ever, before there is a task; with `worker=True` the
    worker sleeps instead, holds the flock and ignores SIGTERM. `hang="all"` hangs every command that needs
    /etc/pve. `fail={VERB: TEXT}` dies with the text. `gate=VERB` waits until the FIFO `<root>/gate` is opened.
    `times=1` fails once.
    """
    if mode:
        _request(root, "qm.json", mode)
    else:
        (root / "qm.json").unlink(missing_ok=True)


def misbehave_ha(root: Path, **mode: object) -> None:
    """Make HA fail.

    `round=SECONDS`: the rounds of its services. `lock=SECONDS`: the lifetime of their locks. `clock=SECONDS`: the
    times that they write are ahead by this. `moves=NODE`: it starts the VM on that node. `migrates=NODE`: it has
    begun to move the VM to that node, and so it forgets a request to stop it.
    """
    _request(root, "ha.json", mode)


def _request(root: Path, name: str, what: dict[str, object]) -> None:
    if not (root / "plugin").is_symlink():
        (root / "plugin").symlink_to(__file__)
    (root / name).write_text(json.dumps(what))


# --- the failures of qm ---


class Mode(NamedTuple):
    """One way in which `qm` fails: in `verbs` (all, if empty) it says `words` and exits with `code`.

    The last of `words` is the error, and the others are a task's output on stdout. `how` is what `qm` does
    instead: `hang`, `ignore-term`, `hold-pipe` (ends, while a child keeps its output open), `after` (does the verb
    first), `unproven` (forgets the VM and leaves its process), `in-haste` (the same ladder, within a second).
    """

    verbs: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    how: str = ""
    code: int = 255


MODES = {
    "not-root": Mode(
        words=(
            *(f"ipcc_send_rec[{number}] failed: Unknown error -1" for number in (1, 2, 3)),
            "Unable to load access control list: Unknown error -1",
        )
    ),
    "flock-timeout": Mode(
        ("start", "stop", "reset"),
        ("trying to acquire lock...", "can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout"),
    ),
    "qemu-exits": Mode(("start",), ("kvm: -nonsense: invalid option", "start failed: QEMU exited with code 1")),
    "another-start-was-faster": Mode(("start",), ("VM {vmid} already running",), "after"),
    "stop-fails": Mode(("stop",), ("VM quit/powerdown failed - got timeout",)),
    "stop-unproven": Mode(("stop",), how="unproven"),
    "stop-in-haste": Mode(("stop",), how="in-haste"),
    "stop-hangs": Mode(("stop",), how="hang"),
    "stop-ignores-term": Mode(("stop",), how="ignore-term"),
    "start-hangs": Mode(("start",), how="ignore-term"),
    "hangs": Mode(how="ignore-term"),
    "holds-pipe": Mode(("stop", "start"), how="hold-pipe"),
}
_TIMES = ("round", "lock", "clock")  # the words of HA's services
_OF_QM_ITSELF = ("hang", "ignore-term", "hold-pipe")
_TASKS = ("start", "stop", "reset", "shutdown", "reboot")


class FailingTools(Plugin):
    """The stand-ins' plugin, which makes commands fail as a test has requested."""

    def before(self, root: str, tool: str, words: list[str]) -> None:
        """Fail before there is a task; `pvesh` fails as `qm status` does."""
        if tool.startswith("pve-ha-"):
            SECONDS.update(
                {f"ha-{name}": float(_read(root, "ha.json").get(name, SECONDS[f"ha-{name}"])) for name in _TIMES}
            )
            return
        failure = _read(root, "qm.json")
        if failure.get("hang") == "all" or failure.get("mode") == "hangs":
            _hang(ignore_term=True)
        if tool == "qm":
            _fail_before_task(root, failure, words[0], words[1])
        elif tool == "pvesh" and words[1].endswith("/status/current"):
            _fail_before_task(root, failure, "status", words[1].split("/")[4])

    def do_step(self, step: str, root: str, vmid: int, verb: str, work: Callable[[], None]) -> None:
        """Do a task or a round of HA, or fail in it as requested."""
        if step == "task":
            _do_task(root, vmid, verb, work)
            return
        failure = _read(root, "ha.json")
        if step == "lrm" and verb == "start" and failure.get("moves"):
            _move(root, vmid, failure["moves"])
        elif step == "manager" and failure.get("migrates"):
            _migrate(root, vmid, failure["migrates"])
        else:
            work()


PLUGIN = FailingTools()


def _read(root: str, name: str) -> dict[str, Any]:
    try:
        with open(f"{root}/{name}", encoding="utf-8") as file:
            failure: dict[str, Any] = json.load(file)
            return failure
    except FileNotFoundError:
        return {}


def _fail_before_task(root: str, failure: dict[str, Any], verb: str, vmid: str) -> None:
    """Fail as `qm` itself does. Modes of the worker fail later, in the task."""
    if failure.get("hang") == verb and not failure.get("worker"):
        _hang(ignore_term=True)
    mode = _mode_of(failure, verb)
    if mode is None:
        return
    if mode.how not in _OF_QM_ITSELF and verb in _TASKS and failure.get("mode") != "not-root":
        return
    _spend(root, failure)
    if mode.how in ("hang", "ignore-term"):
        _hang(ignore_term=mode.how == "ignore-term")
    if mode.how == "hold-pipe":
        os.posix_spawnp("sleep", ["sleep", "5"], os.environ)
        return
    raise Died("\n".join(mode.words).format(vmid=vmid), mode.code)


def _do_task(root: str, vmid: int, verb: str, work: Callable[[], None]) -> None:
    """Do the task, during which the flock is held, or fail in it."""
    failure = _read(root, "qm.json")
    if failure.get("gate") == verb:
        with open(f"{root}/gate", encoding="ascii"):
            pass
    if failure.get("hang") == verb:
        _hang(ignore_term=True)
    mode = _mode_of(failure, verb)
    if mode is None or mode.how in _OF_QM_ITSELF:
        work()
        return
    _spend(root, failure)
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
    """Print the mode's words, and die with the last one as the error."""
    from breakglass.demo.proxmox.vm import say

    *output, error = [line.format(vmid=vmid) for line in mode.words] or [""]
    for line in output:
        say(line)
    if error:
        raise Died(error)


def _hasten_stop(root: str) -> None:
    """Make a stop take less than a second of this host's time."""
    SECONDS.update(dict.fromkeys(("qmp-quit", "stop", "sigterm"), 0.3 / scaled(root, 1)))


def _forget(root: str, vmid: int) -> None:
    """Forget the VM, as after a stop, but leave its process."""
    from breakglass.demo.proxmox.power import clean_up
    from breakglass.demo.proxmox.vm import Vm

    clean_up(Vm(root, vmid))


def _mode_of(failure: dict[str, Any], verb: str) -> Mode | None:
    """Return how the verb fails, if it does."""
    if text := failure.get("fail", {}).get(verb):
        return Mode((verb,), (text,))
    mode = MODES.get(failure.get("mode", ""))
    return mode if mode and (not mode.verbs or verb in mode.verbs) else None


def _spend(root: str, failure: dict[str, Any]) -> None:
    """Forget the failure if the test requested only one."""
    if failure.get("times") == 1:
        os.unlink(f"{root}/qm.json")


def _hang(ignore_term: bool) -> None:
    if ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()


# --- the failures of HA ---


def _migrate(root: str, vmid: int, node: str) -> None:
    """End the VM here and give it to another node, in its own process."""
    from breakglass.demo.proxmox import tasks
    from breakglass.demo.proxmox.vm import Vm

    if not (pid := os.fork()):
        tasks.run(Vm(root, vmid), "stop", [], from_ha=True)
        _move(root, vmid, node)
        os._exit(0)
    os.waitpid(pid, 0)


def _move(root: str, vmid: int, node: str) -> None:
    """Move the configuration to another node, as a recovery or a rebalancing start does."""
    there = f"{root}/etc/pve/nodes/{node}/qemu-server"
    os.makedirs(there, exist_ok=True)
    os.rename(f"{root}/etc/pve/qemu-server/{vmid}.conf", f"{there}/{vmid}.conf")
    with open(f"{root}/etc/pve/.vmlist", "w", encoding="utf-8") as file:
        json.dump({"version": 2, "ids": {vmid: {"node": node, "type": "qemu", "version": 1}}}, file)
