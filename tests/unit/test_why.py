"""Every text of a verdict, as a person reads it: the sentence, its short form, the fix and the evidence.

The texts are in tests/data/verdicts.txt, so that a change of one is read as a difference there. BREAKGLASS_RECORD=1
records them, and what the page's own test shows of each.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from breakglass.agents.pve.forensics.cures import name_cure
from breakglass.agents.pve.forensics.evidence import Evidence
from breakglass.agents.pve.forensics.leftovers import leftover_lines
from breakglass.agents.pve.forensics.outlook import ha_proof
from breakglass.agents.pve.forensics.verdict import quick_verdict, verdict_of
from breakglass.agents.pve.jobs.result import Verdict
from breakglass.base.cures import COMMANDS

from ..support.record import check_record
from ..support.rows import each_row
from .test_heartbeat_rule import LOST
from .test_heartbeat_rule import VERDICTS as BEATS
from .test_verdict import FROZEN, HA_DEAD, IDLE, ROWS, RUNNING, STOPPED, WEDGED

OWNER = ("vzdump of VM 102 by root@pam, process 77 works on it", "by hand: wait, or pvesh delete /nodes/pve/tasks/U")
GONE = ("the last such task, vzdump by root@pam, process 77, is gone: job errors", "by hand: qm unlock 102")
PANIC = "Kernel panic - not syncing: Attempted to kill init!"
BACKUP: dict[str, Any] = {"lock": "backup", "lock_alive": True, "lock_owner": OWNER}
DEAD_BACKUP: dict[str, Any] = {"lock": "backup", "lock_alive": False, "lock_owner": GONE}
ENDED_BACKUP: dict[str, Any] = {"config": True, "last_backup": "the last backup here, vzdump of VM 102, has ended: OK"}
ON_PVE2: dict[str, Any] = {"node": "pve2", "ha": "started", "ha_seen": "started"}
HA_STATES = (  # requested, and seen by HA's manager
    *(("ignored", ""), ("disarmed", ""), ("started", "error"), ("started", "freeze"), ("started", "recovery")),
    *(("stopped", "fence"), ("started", "migrate"), ("started", "started"), ("stopped", ""), ("disabled", "stopped")),
)
VARIANTS = {
    **{name: seen for name, (seen, _, _) in ROWS.items()},
    **{f"heartbeat {name}": seen for name, (seen, _, _) in BEATS.items()},
    **{f"HA {' '.join(state)}": replace(RUNNING, ha=state[0], ha_seen=state[1]) for state in HA_STATES},
    **{f"off, HA {' '.join(state)}": replace(STOPPED, ha=state[0], ha_seen=state[1]) for state in HA_STATES},
    "frozen, a backup runs": replace(IDLE, agent="frozen", **BACKUP),
    "frozen, a backup may run": replace(IDLE, agent="frozen", lock="backup"),
    "frozen, its backup is dead": replace(IDLE, agent="frozen", **DEAD_BACKUP),
    "frozen, its backup has ended": replace(IDLE, agent="frozen", **ENDED_BACKUP),
    "starved by a backup": replace(FROZEN, **BACKUP),
    "starved by a backup's job": replace(FROZEN, block_jobs=("backup on virtio0",)),
    "stopped, the task of its lock dead": replace(STOPPED, **DEAD_BACKUP),
    "stopped, the task of its lock alive": replace(STOPPED, **BACKUP),
    "one process left": replace(STOPPED, leftovers=(123,), remains=("swtpm, process 123, state S",)),
    "two processes left": replace(
        STOPPED, leftovers=(1, 2), remains=("a, process 1, state S", "b, process 2, state S")
    ),
    "a process left in the kernel": replace(
        STOPPED, leftovers=(123, 77), remains=("swtpm, process 123, state S", "kvm, process 77, state D")
    ),
    "a dead storage among late ones": replace(FROZEN, dead_storages=("nas",), late_commands=("pvesm", "lvs")),
    "a late storage": replace(WEDGED, dead_storages=("nas",), late_storages=("nas: gave no answer in 9.1 s",)),
    "much known": replace(
        FROZEN, ha="started", ha_seen="started", pending=("memory",), before=("before",), changes=("then",)
    ),
    "only qm knows": Evidence("unknown", qm_says="running"),
    "a running VM, HA dead": replace(IDLE, **HA_DEAD),
    "off, HA dead": replace(STOPPED, ha="started", ha_dead="pve-ha-lrm is dead"),
    "off, stopped by HA, HA dead": replace(STOPPED, **HA_DEAD | {"ha": "stopped", "ha_seen": "stopped"}),
    "no place": replace(STOPPED, placeless=True, pve="pmxcfs-dead"),
    "on two nodes": replace(IDLE, stale=True, node="pve2"),
    "its node is down": replace(STOPPED, **ON_PVE2, node_seen="unknown"),
    "its node is down, HA dead": replace(STOPPED, **ON_PVE2, node_seen="unknown", ha_dead="pve-ha-lrm is dead"),
    "its node is up, no quorum": replace(STOPPED, **ON_PVE2, node_seen="online", quorate=False),
    "its node is up": replace(STOPPED, **ON_PVE2, node_seen="online", quorate=True),
    "last words": replace(Evidence("guest-panicked"), cause=PANIC),
    "last words, hung": replace(IDLE, heartbeats=LOST, cause=PANIC, last_words=(PANIC,)),
}
OF_REFUSALS = {"see-volumes", "see-storages", "see-bridges"}


def verdicts() -> Iterator[tuple[str, Evidence, Verdict]]:
    for name, seen in VARIANTS.items():
        seen = replace(seen, vmid=102, here="pve1")
        yield name, seen, verdict_of(seen)
        yield f"{name}, for a status", seen, quick_verdict(seen)


def test_every_text_of_a_verdict_is_the_recorded_one() -> None:
    """It is also short: no sentence of ours is cut, and a phone shows at most 110 characters."""
    found: dict[str, str] = {}  # each text once, with the name of the first evidence that has it
    for name, seen, verdict in verdicts():
        assert not verdict.why.endswith("…"), verdict
        assert not verdict.sentence.endswith("…") or seen.cause or seen.node_seen, verdict
        assert len(verdict.why or verdict.sentence) <= 110, verdict
        lines = [f"{verdict.code}, {verdict.advice or 'no advice'}: {verdict.sentence}"]
        lines += [f"short: {verdict.why}"] * bool(verdict.why) + [f"fix: {json.dumps(verdict.fix)}"] * bool(verdict.fix)
        found.setdefault("\n    ".join(["", *lines, *(f"- {line}" for line in verdict.evidence if line)]), name)
    check_record("tests/data/verdicts.txt", "\n".join(f"{name}:{text}" for text, name in found.items()) + "\n")


def test_the_page_has_an_example_of_each_verdict_and_each_fix() -> None:
    """The page's own test shows each of them."""
    found: list[dict[str, Any]] = []
    for _, seen, verdict in verdicts():
        fields = asdict(verdict) | {"evidence": [], "state": seen.state}
        found += [fields] if fields not in found else []
    text = "[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in found) + "\n]\n"
    check_record("tests/page_js/verdicts.json", text)
    assert {each["fix"]["code"] for each in found if each["fix"]} | OF_REFUSALS == set(COMMANDS)


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
