"""Each failure of Proxmox in its exact words, through the host agent: how the verb ends, and its advice.

No VM is stopped that could not be started again.
"""

import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from breakglass.agents.pve.words import DEADLINES
from breakglass.demo.proxmox.world import VMID, World

from ..support.agent import constants_set, execute, hasten
from ..support.failing_tools import misbehave
from ..support.pve_host import HA_UNITS, configure, lock, no_quorum, restore, under_ha
from ..support.qemu import leave_out_guest
from ..support.selection import sampled
from ..support.signals import signal_process

pytestmark = pytest.mark.slow


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


def locked(world: World) -> None:
    lock(world, "backup")


def with_a_pci_device(world: World) -> None:
    configure(world, "hostpci0: 01:00")


def ha(requested: str = "started", seen: str = "started", **mode: Any) -> Callable[[World], None]:
    return lambda world: under_ha(world, requested, seen, **mode)


@dataclass(frozen=True)
class Case:
    """A host, a verb on it, and its expected end.

    `says`: texts that a person sees. `process`: whether the VM's process is then the `same`, a `new` one, or
    `none`. `haste`: the agent's deadlines, made short. `times`: how often `qm` fails, or always.
    """

    verb: str
    code: int
    verdict: str = ""
    says: tuple[str, ...] = ()
    process: str = "same"
    mode: str = ""
    place: Callable[[World], None] = as_it_is
    haste: Mapping[str, object] = field(default_factory=dict)
    times: int = 0


QMP_WAIT = {"QMP_SECONDS": 0.3, "QMP_STEP_SECONDS": 0.3}
HA_WAIT = {"HA_STOP_SECONDS": 1.0}
HA_LOOK = {"HA_TAKES_SECONDS": 1.0}
STOP_WAIT, START_WAIT = {"QM_STOP_SECONDS": 1.0}, {"QM_START_SECONDS": 1.0}
HUNG = {"QM_SECONDS": 0.5} | STOP_WAIT | START_WAIT
FLOCK = "can't lock file '/var/lock/qemu-server/lock-102.conf' - got timeout"
EXITED = "QEMU exited with code 1"
START_HA, OUT_OF_ERROR = "systemctl start pve-ha-crm pve-ha-lrm", ("--state disabled", "--state started")
ERROR = "service 'vm:102' in error state, must be disabled and fixed first"

# A table decides what a verb does in each state of HA, and tests/unit/test_ha_table.py compares it with docs/ha.md. The
# cases here are the ways in which the verbs then act.
CASES = {
    # --- qm itself ---
    "not root: no cycle": Case("cycle", 12, "no-qm", ("Unknown error -1",), mode="not-root"),
    "flock timeout: a stop goes around": Case("stop", 0, "", (FLOCK,), "none", "flock-timeout"),
    "QEMU exits: cycle": Case("cycle", 15, "stranded", (EXITED,), "none", "qemu-exits"),
    "already running": Case("start", 0, "", ("already running", "PCI devices"), place=with_a_pci_device),
    "not running": Case("reset", 12, "not-running", (), "none", place=stopped),
    "stop escalates": Case("stop", 0, "", ("with SIGTERM", "with SIGKILL"), "none", "stop-in-haste", silent, QMP_WAIT),
    "cycle after a stop that was none": Case("cycle", 0, "", ("SIGTERM to ",), "new", "stop-unproven"),
    "stop ignores SIGTERM": Case("cycle", 0, "", ("did not end in time",), "new", "stop-ignores-term", haste=STOP_WAIT),
    "start hangs: cycle": Case("cycle", 15, "stranded", ("qm start did",), "none", "start-hangs", haste=START_WAIT),
    # --- the cluster ---
    "no quorum: no cycle": Case("cycle", 12, "no-quorum", ("pvecm expected 1 only with proof",), place=no_quorum),
    "no quorum: reset": Case("reset", 0, place=no_quorum),
    # --- HA ---
    "HA: cycle": Case("cycle", 0, "", ("HA stop for VM 102", "HA start for VM 102"), "new", place=ha()),
    "HA: stop": Case("stop", 0, "", ("HA has the request", "until a person"), "none", place=ha()),
    "HA: start": Case("start", 0, "", ("Requesting HA start",), "new", place=after(stopped, ha("stopped", "stopped"))),
    "HA stops it all the same: reset": Case("reset", 0, "", ("HA stops the VM",), place=ha("stopped")),
    "HA has just died: nothing is killed": Case(
        "stop", 14, "ha-holds", ("taken back", "vm:102 --state ignored"), place=ha(dead=HA_UNITS), haste=HA_WAIT
    ),
    "HA's LRM is dead: no cycle": Case(
        "cycle", 12, "ha-stuck", (START_HA, "up to 30 s"), place=ha(dead=HA_UNITS[1:], silent=324), haste=HA_LOOK
    ),
    "HA is dead: reset": Case("reset", 0, place=ha(dead=HA_UNITS, silent=324)),
    "HA is dead and wants it stopped: stop": Case(
        "stop", 0, "", ("ending QEMU directly",), "none", place=ha("stopped", dead=HA_UNITS, silent=324)
    ),
    "HA without quorum: no stop": Case("stop", 12, "no-quorum", ("after 60 s",), place=after(ha(), no_quorum)),
    "HA is moving it: no stop": Case("stop", 12, "ha-stuck", ("state migrate",), place=ha(seen="migrate")),
    "HA error: no cycle": Case("cycle", 12, "ha-stuck", (ERROR, *OUT_OF_ERROR), place=ha("started", "error")),
    "HA error: a stop goes around": Case("stop", 0, "", (ERROR,), "none", place=ha("started", "error")),
    "HA takes the stop of a VM that is off": Case(
        "stop", 0, "", ("already stopped", "requested stopped"), "none", place=after(stopped, ha())
    ),
    # --- locks ---
    "locked: no cycle": Case("cycle", 12, "locked", ("lock: backup",), place=locked),
    "locked: no start": Case("start", 12, "locked", ("locked (backup)",), "none", place=after(stopped, locked)),
}

IN_CI = {
    "QEMU exits once: cycle": Case("cycle", 0, "", (EXITED,), "new", "qemu-exits", times=1),
    "HA moves it": Case(
        "start", 13, "moved", ("node pve2",), "none", place=after(stopped, ha("stopped", "stopped", moves="pve2"))
    ),
    "HA has just died: a VM that is off may come back": Case(
        "stop", 14, "ha-holds", ("--state ignored",), "none", place=after(stopped, ha(dead=HA_UNITS)), haste=HA_LOOK
    ),
    "HA forgets the stop of a cycle": Case("cycle", 13, "moved", ("node pve2",), "none", place=ha(migrates="pve2")),
    "another start was faster": Case("start", 0, "", ("already running",), "new", "another-start-was-faster", stopped),
    "stop hangs until little is left": Case(
        "stop", 0, "", ("did not end in time",), "none", "stop-hangs", haste={"DEADLINES": DEADLINES | {"stop": 29.0}}
    ),
    "all of qm hangs: cycle": Case("cycle", 15, "stranded", ("showcmd", "qm start did"), "none", "hangs", haste=HUNG),
    "a child holds the pipe": Case("cycle", 0, process="new", mode="holds-pipe"),
    "no quorum: no start": Case("start", 12, "place-unknown", (), "none", place=after(stopped, no_quorum)),
    "no quorum: stop": Case("stop", 0, process="none", place=no_quorum),
    "HA's files are old by this node's clock alone: cycle": Case("cycle", 0, process="new", place=ha(clock=-3600)),
    "HA does not start it": Case(
        "start",
        13,
        "ha-holds",
        ("ha-manager status",),
        "none",
        place=after(stopped, ha("stopped", "stopped", dead=HA_UNITS)),
        haste={"HA_START_SECONDS": 1.0},
    ),
}


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    """One host for the whole table. It is restored after each case."""
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        world = World(Path(directory), scale=20)
        hasten(world)
        leave_out_guest(world)
        yield world
        world.close()


@pytest.mark.parametrize("name", sampled(CASES | IN_CI, *CASES))
def test_each_failure_of_proxmox_ends_as_it_must(shared: World, name: str) -> None:
    """Each case has its exit code, its verdict, the words that a person needs, and the state of the VM's process."""
    case = (CASES | IN_CI)[name]
    restore(shared)
    case.place(shared)
    before = shared.pid
    misbehave(shared.root, **({"mode": case.mode, "times": case.times} if case.mode else {}))
    with constants_set(shared, **case.haste):
        answer = execute(shared, case.verb)
    verdict = answer.trailer["verdict"] or {}
    shown = "\n".join([answer.stdout, answer.stderr, *answer.trailer["warnings"], *verdict.get("evidence", ())])
    assert (answer.code, verdict.get("code", "")) == (case.code, case.verdict)
    assert [text for text in case.says if text not in shown] == []
    assert answer.trailer["seconds"] < 100  # more than ten times as long as each may wait
    now = shared.pid
    assert {"same": now == before, "new": now not in (None, before), "none": now is None}[case.process]
