"""docs/ha.md: each row of its tables is the host agent's decision, and every state of HA has exactly one row.

So it is with tests/data/ha_status.txt, which has the sentence of `status` for each state.
"""

import json
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from breakglass.agents.pve.forensics import ha_daemons
from breakglass.agents.pve.forensics.ha_daemons import find_dead_ha, find_silence
from breakglass.agents.pve.forensics.outlook import ha_outlook
from breakglass.agents.pve.host.cluster import Cluster, _read_cluster, node_name
from breakglass.agents.pve.host.paths import Host
from breakglass.agents.pve.host.vm_config import HA_SERVICES, ha_manages, ha_restarts
from breakglass.agents.pve.jobs.job import Job
from breakglass.agents.pve.jobs.result import Ended
from breakglass.agents.pve.jobs.store import JobStore, Record
from breakglass.agents.pve.power.locked import refuse_reset
from breakglass.agents.pve.power.preflight import refuse_deaf_ha, refuse_unstartable

from ..support.documents import ROOT
from ..support.rows import each_row

TEXT = (ROOT / "docs/ha.md").read_text(encoding="utf-8")
STATUS = (ROOT / "tests/data/ha_status.txt").read_text(encoding="utf-8")
VERBS = ("start", "stop", "reset", "cycle")
MANAGED = ("started", "stopped", "disabled")  # of HA/Tools.pm, beside `ignored`
STATES = (  # Manager.pm:394, and "" for a VM that the manager does not know
    *("none", "started", "stopped", "request_start", "request_stop", "request_start_balance"),
    *("migrate", "relocate", "fence", "recovery", "freeze", "error"),
)
DAEMONS: dict[str, tuple[float, float, dict[str, str]]] = {  # the ages of the two statuses, and the LRM's mode
    "": (5, 5, {}),
    "CRM silent": (324, 5, {}),
    "LRM silent": (5, 324, {}),
    "CRM ended": (5, 5, {}),
    "LRM ended": (5, 5, {}),
    "LRM stops": (5, 5, {"mode": "restart"}),
    "LRM lost its lock": (5, 5, {"state": "lost_agent_lock"}),
    "LRM waits": (5, 5, {"state": "wait_for_agent_lock"}),
}
DEAD = tuple(name for name in DAEMONS if name not in ("", "LRM waits"))
HEADINGS = ("The VM is on this node", "HA's daemons don't act", "HA is disarmed", "Another node has the VM")
NODE_STATES = {"online", "maintenance", "unknown", "fence", "gone"}  # NodeStatus.pm:25


def rows(heading: str) -> Iterator[dict[str, str]]:
    """Yield the rows of the table below a heading, by the names of its columns."""
    text = STATUS if heading == HEADINGS[3] else TEXT
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    table = section[section.index("| requested | ") :]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    names = [name.strip("`") for name in lines[0]]
    for cells in lines[1:]:
        yield dict(zip(names, cells, strict=True))


def expand(cell: str, every: tuple[str, ...]) -> tuple[str, ...]:
    return every if cell == "any" else tuple(cell.split(", "))


def cases() -> dict[tuple[str, str, str, str], dict[str, str]]:
    """Return the tables' decision about a VM on this node by (requested, HA's state, mode of disarming, daemon)."""
    found: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for row in (row for heading in HEADINGS[:3] for row in rows(heading)):
        modes, daemons = row.get("disarmed", "").split(", "), row.get("daemon", "").split(", ")
        daemons = [*DEAD] if daemons == ["dead"] else daemons
        for case in product(row["requested"].split(", "), expand(row["HA's state"], STATES), modes, daemons):
            assert case not in found, f"two rows have {case}"
            found[case] = {verb: row[verb] for verb in VERBS}
    return found


def read_cluster(root: Path, requested: str, seen: str, mode: str, daemon: str) -> Cluster:
    """Return the agent's reading of HA's files in that state."""
    crm_age, lrm_age, words = DAEMONS[daemon]
    (root / "run").mkdir()
    for name in HA_SERVICES:
        if daemon != f"{name.removeprefix('pve-ha-').upper()} ended":
            (root / f"run/{name}.pid").touch()
    ha = root / "etc/pve/ha"
    ha.mkdir(parents=True)
    (root / "etc/pve/local").mkdir()
    (root / "etc/pve/qemu-server").mkdir()
    (root / "etc/pve/qemu-server/102.conf").touch()
    if requested != "not in HA":
        (ha / "resources.cfg").write_text(f"vm: 102\n\tstate {requested}\n")
    services = {} if seen == "none" else {"vm:102": {"state": seen, "node": "pve1", "uid": "x"}}
    status: dict[str, object] = {"service_status": services, "node_status": {"pve1": "online"}}
    status["master_node"] = node_name()
    status["timestamp"] = int(time.time() - crm_age)
    lrm = {"state": "active", "mode": "active", "timestamp": int(time.time() - lrm_age), "results": {}} | words
    (root / "etc/pve/local/lrm_status").write_text(json.dumps(lrm))
    if mode:
        status["disarm"] = {"mode": mode, "state": "disarming"}
    (ha / "manager_status").write_text(json.dumps(status))
    return _read_cluster(Host(102, str(root)))


def decide(verb: str, view: Cluster, root: Path) -> str:
    """Return the table's word for the verb's decision."""
    host = Host(102, str(root))
    job = Job(host, JobStore(host), Record("id", verb, "by", "", "", 0.0, "", 0, 0))
    try:
        match verb:
            case "stop":
                refuse_deaf_ha(job, view)
            case "reset":
                refuse_reset(job, view, "running")
            case _:
                refuse_unstartable(job, view, stops_first=verb == "cycle")
    except Ended as ended:
        return "refused" if ended.verdict.code == "ha-stuck" else ended.verdict.code
    if verb == "reset" or not ha_manages(view.ha):
        return "direct"
    if verb == "stop" and not ha_restarts(view.ha, view.ha_seen) and find_dead_ha(view):
        return "kills"
    return "asks" if verb == "start" or ha_restarts(view.ha, view.ha_seen) else "asks, kills"


def test_the_tables_have_every_state_once() -> None:
    """Each requested state has a row with each state of the manager, armed and disarmed. A new state needs a row."""
    wanted = set(product(MANAGED, STATES, ("", "ignore", "freeze"), ("",)))
    wanted |= {("ignored", seen, "", "") for seen in STATES} | {("not in HA", "none", "", "")}
    wanted |= set(product(MANAGED, STATES, ("",), DEAD))
    assert {case for case in cases() if case[3] != "LRM waits"} == wanted


@each_row("case", cases())
def test_each_row_is_what_the_agent_decides(
    case: tuple[str, str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows agree with the checks that verbs make before they act, which read HA's files."""
    monkeypatch.setattr(ha_daemons, "HA_TAKES_SECONDS", 0.0)  # no daemon would write a new one
    view = read_cluster(tmp_path, *case)
    assert {verb: decide(verb, view, tmp_path) for verb in VERBS} == cases()[case]


def test_each_row_of_another_node_is_what_a_status_says() -> None:
    """The status has the same line, and every state of a node and of a VM has a row."""
    seen_states, node_states = set(), set()
    for row in rows("Another node has the VM"):
        goal = "pve3" if "pve3" in row["what `status` says"] else ""
        nodes = expand(row["node's state"], tuple(NODE_STATES))
        for requested, seen, node_seen in product(row["requested"].split(", "), row["HA's state"].split(", "), nodes):
            words = {"none": "", "any": "started"}.get(seen, seen)
            line = ha_outlook("" if requested == "not in HA" else requested, words, "pve2", node_seen, goal)
            assert line == row["what `status` says"], (requested, seen, node_seen)
            seen_states.add(seen)
            node_states.add(node_seen)
    assert seen_states >= set(STATES)
    assert node_states == NODE_STATES
    assert ha_outlook("disarmed", "started", "pve2", "unknown") in " ".join(STATUS.split())
    silence = find_silence("HA's manager pve-ha-crm", {"timestamp": 1000}, 1324)
    assert ha_outlook("started", "started", "pve2", "online", dead=silence) in " ".join(STATUS.split())
    assert ha_outlook("started", "started", "pve2", "") == ""
    assert all(ha_outlook(*case[:2], "pve2", case[2]) for case in product(MANAGED, STATES, NODE_STATES))
