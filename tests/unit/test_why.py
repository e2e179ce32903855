"""The reason and the fix of a verdict on a phone. These tests start no process."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from breakglass.agents.pve.forensics.cures import name_cure
from breakglass.agents.pve.forensics.evidence import Evidence
from breakglass.agents.pve.forensics.leftovers import leftover_lines
from breakglass.agents.pve.forensics.outlook import ha_proof
from breakglass.agents.pve.forensics.verdict import quick_verdict, verdict_of
from breakglass.agents.pve.jobs.result import Verdict
from breakglass.base.cures import COMMANDS

from ..support.rows import each_row
from .test_heartbeat_rule import VERDICTS as BEATS
from .test_verdict import FREEZERS, IDLE, ROWS, STOPPED

VARIANTS = {
    **{name: seen for name, (seen, _, _) in ROWS.items()},
    **{f"frozen, {name}": replace(IDLE, agent="frozen", **more) for name, (more, _, _) in FREEZERS.items()},
    **{f"heartbeat {name}": seen for name, (seen, _, _) in BEATS.items()},
    "one process left": replace(STOPPED, leftovers=(123,), remains=("swtpm, process 123, state S",)),
    "two processes left": replace(
        STOPPED, leftovers=(1, 2), remains=("a, process 1, state S", "b, process 2, state S")
    ),
    "a running VM, HA dead": replace(IDLE, ha="started", ha_dead="pve-ha-lrm is dead"),
    "off, HA dead": replace(STOPPED, ha="started", ha_dead="pve-ha-lrm is dead"),
    "no place": replace(STOPPED, placeless=True, pve="pmxcfs-dead"),
    "on two nodes": replace(IDLE, stale=True, node="pve2"),
    "its node is down": replace(STOPPED, node="pve2", ha="started", ha_seen="started", node_seen="unknown"),
    "last words": replace(Evidence("guest-panicked"), cause="Kernel panic - not syncing: Attempted to kill init!"),
}
RECORDED = Path(__file__).parent.parent / "page_js/verdicts.json"


def test_each_variant_says_why_on_a_phone() -> None:
    """At most 110 characters, none cut. The page's own test shows each of them; BREAKGLASS_RECORD=1 records them."""
    found: list[dict[str, Any]] = []
    for seen in VARIANTS.values():
        for judge in (verdict_of, quick_verdict):
            verdict = judge(replace(seen, vmid=102, here="pve1"))
            assert len(verdict.why or verdict.sentence) <= 110, verdict
            assert not verdict.why.endswith("…")
            fields = asdict(verdict) | {"evidence": [], "state": seen.state}
            found += [fields] if fields not in found else []
    text = "[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in found) + "\n]\n"
    if os.environ.get("BREAKGLASS_RECORD"):
        RECORDED.write_text(text, encoding="utf-8")
    assert text == RECORDED.read_text(encoding="utf-8")
    assert {each["fix"]["code"] for each in found if each["fix"]} | OF_REFUSALS == set(COMMANDS)


OF_REFUSALS = {"see-volumes", "see-storages", "see-bridges"}
CURES = {
    "QEMU stopped by a signal": {"code": "continue-qemu", "pid": 4242},
    "wedged by a signal, no quorum": {"code": "continue-qemu", "pid": 4242},
    "frozen by a backup": None,
    "frozen, its backup is dead": {"code": "thaw"},
    "stopped, its task dead": {"code": "unlock"},
    "stopped, a task runs": None,
    "stopped, pmxcfs hangs": {"code": "restart-pmxcfs"},
    "one process left": {"code": "end-leftover", "pid": 123},
    "two processes left": None,
    "stopped, something left": None,
}


@each_row("name", CURES)
def test_the_cure_on_the_host_is_a_code(name: str) -> None:
    """There is no code if the fix is to wait, or if no single command fixes it."""
    assert verdict_of(VARIANTS[name]).fix == CURES[name]


DEAD = "VM is locked (backup): the task that set the lock is dead"
LEFT = "the VM is stopped but process 77 is left in its scope, so a start would fail"
SAID = "the guest's own last words, which prove nothing: "


@each_row(
    ("sentence", "lines", "fix"),
    [
        (DEAD, ("by hand: qm unlock 102, because no process is left",), {"code": "unlock"}),
        (DEAD, (), None),
        (LEFT, leftover_lines([77], ["swtpm, process 77, state S"]), {"code": "end-leftover", "pid": 77}),
        (LEFT, leftover_lines([77], ["swtpm, process 77, state D"]), None),
        ("HA manages VM 102 and does nothing now", ha_proof(102, "started", "started", "dead"), {"code": "start-ha"}),
        ("HA has VM 102 in state migrate", ha_proof(102, "started", "migrate"), {"code": "see-ha"}),
        ("qm start failed: storage 'nas' is not online", (), {"code": "see-storages"}),
        ("it failed", ("by hand: kill -CONT 5",), {"code": "continue-qemu", "pid": 5}),
        ("it failed", (f"{SAID}kill -CONT 5", f"{SAID}by hand: kill -CONT 5"), None),
    ],
)
def test_a_refusal_names_its_cure(sentence: str, lines: tuple[str, ...], fix: object) -> None:
    """By the host agent's own words: those of a guest, which stand in the evidence, name none."""
    assert name_cure(Verdict("refused", sentence, "", lines)).fix == fix
