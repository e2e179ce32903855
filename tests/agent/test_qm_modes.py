"""Each failure of Proxmox in its exact words, through the host agent: how the verb ends, and its advice.

No VM is stopped that could not be started again.
"""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from breakglass.agents.pve.words import DEADLINES
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import Answer, constants_set, execute, hasten
from ..support.failing_tools import MODES, misbehave
from ..support.pve_host import HA_UNITS, lock, moved, no_quorum, restore, under_ha
from ..support.qemu import leave_out_guest
from ..support.selection import sampled
from ..support.signals import signal_process

pytestmark = pytest.mark.slow

KINDS = ("backup", "clone", "create", "migrate", "rollback", "snapshot", "snapshot-delete", "suspended", "suspending")


def as_it_is(world: World) -> None:
    """Change nothing."""


def stopped(world: World) -> None:
    assert world.qm("stop", str(VMID)).returncode == 0


def silent(world: World) -> None:
    """Stop QEMU by a signal, so that neither QMP nor SIGTERM has an effect."""
    signal_process(world.pid, signal.SIGSTOP)


def after(*places: Callable[[World], None]) -> Callable[[World], None]:
    def place(world: World) -> None:
        for one in places:
            one(world)

    return place


def locked_as(kind: str) -> Callable[[World], None]:
    return lambda world: lock(world, kind)


def ha(requested: str = "started", seen: str = "started", **mode: Any) -> Callable[[World], None]:
    return lambda world: under_ha(world, requested, seen, **mode)


def clock_ahead(world: World) -> None:
    """Let HA's services work but write times of an hour ago, as nodes do whose clocks are an hour behind."""
    under_ha(world, clock=-3600)


@dataclass(frozen=True)
class Case:
    """A host, a verb on it, and its expected end.

    `says`: texts that a person sees. `process`: whether the VM's process is then the `same`, a `new` one, or
    `none`. `haste`: the agent's deadlines, made short.
    """

    verb: str
    code: int
    verdict: str = ""
    says: tuple[str, ...] = ()
    process: str = "same"
    mode: str = ""
    place: Callable[[World], None] = as_it_is
    haste: Mapping[str, object] = field(default_factory=dict)


QMP_WAIT = {"QMP_SECONDS": 0.3, "QMP_STEP_SECONDS": 0.3}
HA_WAIT = {"HA_STOP_SECONDS": 1.0}
HA_LOOK = {"HA_TAKES_SECONDS": 1.0}
HA_START = {"HA_START_SECONDS": 1.0}
STOP_WAIT = {"QM_STOP_SECONDS": 1.0}
QM_WAIT = STOP_WAIT | {"QM_START_SECONDS": 1.0}
HUNG = {"QM_SECONDS": 0.5} | QM_WAIT
FLOCK = "can't lock file '/var/lock/qemu-server/lock-102.conf' - got timeout"
ERROR = "service 'vm:102' in error state, must be disabled and fixed first"
MISSING = f"Configuration file 'nodes/{os.uname().nodename.partition('.')[0]}/qemu-server/102.conf' does not exist"

CASES = {
    # --- qm itself ---
    "not root: no cycle": Case("cycle", 12, "no-qm", ("please run as root",), mode="not-root"),
    "not root: a stop does without qm": Case("stop", 0, "", ("please run as root",), "none", "not-root"),
    "flock timeout: a stop goes around": Case("stop", 0, "", (FLOCK, "trying to acquire"), "none", "flock-timeout"),
    "flock timeout: a start fails": Case("start", 13, "verb-failed", (FLOCK,), "none", "flock-timeout", stopped),
    "flock timeout: a reset needs no qm": Case("reset", 0, mode="flock-timeout"),
    "no quorum, found out late": Case(
        "start", 13, "verb-failed", ("cluster not ready - no quorum?",), "none", "no-quorum", stopped
    ),
    "QEMU exits: start": Case("start", 13, "verb-failed", ("QEMU exited with code 1",), "none", "qemu-exits", stopped),
    "QEMU exits: cycle": Case("cycle", 15, "stranded", ("QEMU exited with code 1",), "none", "qemu-exits"),
    "systemd": Case("start", 13, "verb-failed", ("timeout waiting on systemd",), "none", "systemd-timeout", stopped),
    "another start was faster": Case(
        "start", 0, "", ("VM 102 already running",), "new", "another-start-was-faster", stopped
    ),
    "already running": Case("start", 0, "", ("already running",)),
    "not running": Case("reset", 12, "not-running", (), "none", place=stopped),
    "stop fails": Case("stop", 0, "", ("VM quit/powerdown failed - got timeout",), "none", "stop-fails"),
    "stop escalates": Case(
        "stop",
        0,
        "",
        ("VM quit/powerdown failed - terminating now with SIGTERM", "VM still running - terminating now with SIGKILL"),
        "none",
        "stop-in-haste",
        silent,
        QMP_WAIT,
    ),
    "stop says done and is not": Case(
        "stop", 0, "", ("qm stop ended with 0", "SIGTERM to ", "no process is left"), "none", "stop-unproven"
    ),
    "cycle after a stop that was none": Case("cycle", 0, "", ("SIGTERM to ",), "new", "stop-unproven"),
    "stop hangs": Case("stop", 0, "", ("qm stop did not end in time",), "none", "stop-hangs", haste=STOP_WAIT),
    "stop hangs until little is left": Case(
        "stop", 0, "", ("did not end in time",), "none", "stop-hangs", haste={"DEADLINES": DEADLINES | {"stop": 29.0}}
    ),
    "stop ignores SIGTERM": Case("cycle", 0, "", ("did not end in time",), "new", "stop-ignores-term", haste=STOP_WAIT),
    "start hangs": Case("start", 14, "deadline", (), "none", "start-hangs", stopped, QM_WAIT),
    "all of qm hangs: cycle": Case(
        "cycle", 15, "stranded", ("qm showcmd gave no answer", "qm start did not end"), "none", "hangs", haste=HUNG
    ),
    "all of qm hangs: reset": Case("reset", 0, mode="hangs"),
    "a child holds the pipe": Case("cycle", 0, process="new", mode="holds-pipe"),
    # --- the cluster ---
    "no quorum: no cycle": Case("cycle", 12, "no-quorum", ("pvecm expected 1 only with proof",), place=no_quorum),
    "no quorum: no start": Case(
        "start", 12, "place-unknown", ("pvecm expected 1 only with proof",), "none", place=after(stopped, no_quorum)
    ),
    "no quorum: stop": Case("stop", 0, process="none", place=no_quorum),
    "no quorum: reset": Case("reset", 0, place=no_quorum),
    "other node: no cycle": Case(
        "cycle", 12, "other-node", ("node pve2", MISSING), "none", place=after(stopped, moved)
    ),
    "other node: no start": Case("start", 12, "other-node", ("node pve2",), "none", place=after(stopped, moved)),
    "other node: no stop": Case("stop", 12, "other-node", ("node pve2",), "none", place=after(stopped, moved)),
    "other node: no reset": Case("reset", 12, "other-node", ("node pve2",), "none", place=after(stopped, moved)),
    "other node: its QEMU is here all the same": Case("reset", 12, "stale-copy", ("node pve2", "kill"), place=moved),
    # --- HA ---
    "HA: cycle": Case(
        "cycle", 0, "", ("Requesting HA stop for VM 102", "Requesting HA start for VM 102"), "new", place=ha()
    ),
    "HA: stop": Case("stop", 0, "", ("requested stopped", "stays off until a person or tool"), "none", place=ha()),
    "HA: start": Case(
        "start",
        0,
        "",
        ("Requesting HA start",),
        "new",
        place=after(stopped, ha("stopped", "stopped")),
    ),
    "HA: reset is QEMU's own": Case("reset", 0, place=ha()),
    "HA stops it all the same: reset": Case("reset", 0, "", ("HA stops the VM if it runs",), place=ha("stopped")),
    "HA stops it all the same: start": Case("start", 0, "", ("HA stops the VM if it runs",), place=ha("stopped")),
    "HA ignored: direct control": Case("stop", 0, "", ("qm stop ended with 0",), "none", place=ha("ignored", "")),
    "HA has just died: nothing is killed": Case(
        "stop",
        14,
        "ha-holds",
        ("taken back before HA read it", "HA starts it again here", "ha-manager set vm:102 --state ignored"),
        place=ha(dead=HA_UNITS),
        haste=HA_WAIT,
    ),
    "HA has just died: nor for a cycle": Case(
        "cycle", 14, "ha-holds", ("taken back before HA read it",), place=ha(dead=HA_UNITS), haste=HA_WAIT
    ),
    "HA takes the stop, its LRM has just died: stop": Case(
        "stop", 0, "", ("ending QEMU directly",), "none", place=ha(dead=HA_UNITS[1:]), haste={"HA_STOP_SECONDS": 10.0}
    ),
    "HA takes the stop, its LRM has just died: cycle": Case(
        "cycle",
        14,
        "ha-holds",
        ("this node's pve-ha-lrm writes no status", "it was not killed", "HA may stop the VM once before that"),
        place=ha(dead=HA_UNITS[1:]),
        haste={"HA_STOP_SECONDS": 10.0},
    ),
    **{
        f"HA is dead ({', '.join(dead)}): no {verb}": Case(
            verb,
            12,
            "ha-stuck",
            (f"{name} seems dead, silent for 3", "by hand: systemctl start pve-ha-crm pve-ha-lrm"),
            place=ha(dead=dead, silent=324),
            haste=HA_LOOK,
        )
        for dead, name in ((HA_UNITS[:1], "HA's manager pve-ha-crm"), (HA_UNITS[1:], ""))
        for verb in ("cycle", "stop")
    },
    "HA is dead: no start": Case(
        "start",
        12,
        "ha-stuck",
        ("HA's manager pve-ha-crm seems dead", "--state ignored"),
        "none",
        place=after(stopped, ha("stopped", "stopped", dead=HA_UNITS, silent=324)),
        haste=HA_LOOK,
    ),
    "HA is dead: no stop of a VM that is off": Case(
        "stop", 12, "ha-stuck", (), "none", place=after(stopped, ha(dead=HA_UNITS, silent=324)), haste=HA_LOOK
    ),
    "HA is dead: reset": Case("reset", 0, place=ha(dead=HA_UNITS, silent=324)),
    "HA is dead and wants it stopped: stop": Case(
        "stop",
        0,
        "",
        ("once HA works again, HA stops the VM if it runs; ending QEMU directly",),
        "none",
        place=ha("stopped", dead=HA_UNITS, silent=324),
    ),
    "HA's LRM is being stopped: no cycle": Case(
        "cycle",
        12,
        "ha-stuck",
        ("is being stopped or restarted (mode restart)",),
        place=ha(dead=HA_UNITS, lrm={"mode": "restart"}),
        haste=HA_LOOK,
    ),
    "HA's files are old by this node's clock alone: cycle": Case("cycle", 0, process="new", place=clock_ahead),
    "HA without quorum: no stop": Case(
        "stop", 12, "no-quorum", ("undoes a kill", "reboots itself after 60 s"), place=after(ha(), no_quorum)
    ),
    "HA without quorum: reset": Case("reset", 0, place=after(ha(), no_quorum)),
    "HA error: no cycle": Case(
        "cycle",
        12,
        "ha-stuck",
        (ERROR, "ha-manager set vm:102 --state disabled", "--state started"),
        place=ha("started", "error"),
    ),
    "HA error: no start": Case("start", 12, "ha-stuck", (ERROR,), "none", place=after(stopped, ha("started", "error"))),
    "HA error: a stop goes around": Case(
        "stop", 0, "", (ERROR, "ending QEMU directly"), "none", place=ha("started", "error")
    ),
    "HA frozen: no stop": Case("stop", 12, "ha-stuck", ("state freeze",), place=ha(seen="freeze")),
    "HA moves it": Case(
        "start",
        13,
        "moved",
        ("node pve2",),
        "none",
        place=after(stopped, ha("stopped", "stopped", moves="pve2")),
    ),
    "HA takes the stop of a VM that is off": Case(
        "stop",
        0,
        "",
        ("already stopped", "Requesting HA stop", "requested stopped"),
        "none",
        place=after(stopped, ha()),
    ),
    "HA has just died: a VM that is off may come back": Case(
        "stop",
        14,
        "ha-holds",
        ("has not taken the request", "HA's queue has the request", "--state ignored"),
        "none",
        place=after(stopped, ha(dead=HA_UNITS)),
        haste=HA_LOOK,
    ),
    "HA forgets the stop and migrates it": Case(
        "stop", 13, "moved", ("moved to node pve2 while the verb ran",), "none", place=ha(migrates="pve2")
    ),
    "HA forgets the stop of a cycle": Case(
        "cycle", 13, "moved", ("moved to node pve2 while the verb ran",), "none", place=ha(migrates="pve2")
    ),
    "HA is moving it: no stop": Case(
        "stop", 12, "ha-stuck", ("state migrate", "is moving the VM"), place=ha(seen="migrate")
    ),
    "HA is about to start it: no stop": Case(
        "stop", 12, "ha-stuck", ("state request_stop",), place=ha(seen="request_stop")
    ),
    "HA recovers it while it is disarmed: no start": Case(
        "start",
        12,
        "ha-stuck",
        ("state recovery",),
        "none",
        place=after(stopped, ha(seen="recovery", disarm="ignore")),
    ),
    "HA error while it is disarmed: a stop goes around": Case(
        "stop", 0, "", ("ending QEMU directly",), "none", place=ha(seen="error", disarm="freeze")
    ),
    "HA moves it in a cycle": Case("cycle", 13, "moved", ("node pve2",), "none", place=ha(moves="pve2")),
    "HA does not start it": Case(
        "start",
        13,
        "ha-holds",
        ("ha-manager status",),
        "none",
        place=after(stopped, ha("stopped", "stopped", dead=HA_UNITS)),
        haste=HA_START,
    ),
    # --- locks ---
    **{
        f"locked ({kind}): no cycle": Case("cycle", 12, "locked", (f"lock: {kind}",), place=locked_as(kind))
        for kind in KINDS
    },
    "locked: no stop": Case("stop", 12, "locked", ("VM is locked (backup)",), place=locked_as("backup")),
    "locked: no start": Case(
        "start", 12, "locked", ("VM is locked (backup)",), "none", place=after(stopped, locked_as("backup"))
    ),
    "locked (suspended): start": Case("start", 0, process="new", place=after(stopped, locked_as("suspended"))),
}


# The other kinds of lock. Other cases, or test_preflight.py, have these words and verbs with another lock.
REPEATED = {f"locked ({kind}): no cycle" for kind in KINDS[1:]}
REPEATED |= {"systemd", "other node: no start", "other node: no stop", "other node: its QEMU is here all the same"}
REPEATED |= {"no quorum: stop", "no quorum: no start", "no quorum, found out late"}
REPEATED |= {"not root: a stop does without qm", "another start was faster", "locked (suspended): start"}
REPEATED |= {"flock timeout: a start fails", "flock timeout: a reset needs no qm", "QEMU exits: start"}
REPEATED |= {"stop fails", "stop says done and is not", "stop hangs", "stop hangs until little is left"}
REPEATED |= {"all of qm hangs: reset", "a child holds the pipe"}
REPEATED |= {"HA moves it in a cycle", "HA has just died: nor for a cycle", "HA is dead: no stop of a VM that is off"}
REPEATED |= {f"HA is dead ({unit}): no {verb}" for unit in HA_UNITS for verb in ("cycle", "stop")}
REPEATED -= {"HA is dead (pve-ha-lrm): no cycle"}
REPEATED |= {f"HA takes the stop, its LRM has just died: {verb}" for verb in ("cycle", "stop")}
REPEATED |= {"HA's files are old by this node's clock alone: cycle", "HA's LRM is being stopped: no cycle"}
REPEATED |= {"HA does not start it", "HA ignored: direct control", "HA: reset is QEMU's own"}
REPEATED |= {"HA without quorum: reset", "HA error: no start", "HA error: a stop goes around"}


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """One host for the whole table. It is restored after each case."""
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        world = World(Path(directory), scale=20)
        hasten(world)
        leave_out_guest(world)
        yield world
        world.close()


def run(world: World, case: Case) -> Answer:
    misbehave(world.root, **({"mode": case.mode} if case.mode else {}))
    with constants_set(world, **case.haste):
        return execute(world, case.verb)


@pytest.mark.parametrize("name", sampled(CASES, *[name for name in CASES if name not in REPEATED]))
def test_each_failure_of_proxmox_ends_as_it_must(shared: World, name: str) -> None:
    """Each case has its exit code, its verdict, the words that a person needs, and the state of the VM's process."""
    case = CASES[name]
    restore(shared)
    case.place(shared)
    before = shared.pid
    answer = run(shared, case)
    verdict = answer.trailer["verdict"] or {}
    shown = "\n".join([answer.stdout, answer.stderr, *answer.trailer["warnings"], *verdict.get("evidence", ())])
    assert (answer.code, verdict.get("code", "")) == (case.code, case.verdict)
    assert [text for text in case.says if text not in shown] == []
    now = shared.pid
    assert {"same": now == before, "new": now not in (None, before), "none": now is None}[case.process]


def test_the_stand_in_says_proxmoxs_words(shared: World) -> None:
    """Its exit code is Proxmox's own, the task's reason comes last, without a prefix, and `status: X` is all."""
    restore(shared)
    assert shared.qm("status", "102").stdout == "status: running\n"
    assert "running-qemu: " in shared.qm("status", "102", "--verbose").stdout
    for mode, words in ((name, mode.words) for name, mode in MODES.items() if mode.words and not mode.how):
        misbehave(shared.root, mode=mode)
        verb = (MODES[mode].verbs or ("status",))[0]
        ended = shared.qm(verb, "102")
        assert ended.returncode == MODES[mode].code
        assert (ended.stdout + ended.stderr).splitlines() == [word.format(vmid=102) for word in words]
        assert ended.stderr.splitlines()[-1:] == [words[-1].format(vmid=102)]
