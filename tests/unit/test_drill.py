"""The proof that a drill accepts, and the alert that it may send."""

from typing import Any

import pytest

from breakglass.alerts.rules import drill_rules
from breakglass.cli.drill_steps import Drill, is_in_chain, read_proven
from breakglass.cli.output import CommandError
from breakglass.client import Signer

from ..support.rows import each_row

HEADS = ["a" * 64, "b" * 64, "c" * 64]
PLACE = {"node": "pve1", "n": 8, "head": "b" * 64}
CHAIN = {"node": "pve1", "n": 9, "head": "c" * 64, "broken": "", "hashes": [head[:16] for head in HEADS]}


@each_row(
    ("place", "chain", "is_there"),
    [
        ({}, {}, True),
        ({"n": 7, "head": "a" * 64}, {}, True),
        ({"head": "d" * 64}, {}, False),
        *(({"n": number}, {}, False) for number in (9, 10, 6, None)),
        ({}, {"broken": "line 3 is missing"}, False),
        ({}, {"hashes": None}, False),
        ({}, {"hashes": []}, False),
    ],
)
def test_a_line_is_in_the_chain_at_its_place(place: dict[str, Any], chain: dict[str, Any], is_there: bool) -> None:
    assert is_in_chain(PLACE | place, CHAIN | chain) is is_there


def test_the_built_in_entry_matches_a_drill_of_its_vm_only() -> None:
    [rule] = drill_rules(["canary"])
    assert (rule.source, rule.vm, rule.fresh_seconds) == ("generic", "canary", 0)
    assert rule.matches({"drill": "canary", "other": "label"})
    assert not rule.matches({"drill": "devvm"})
    assert not rule.matches({})


CYCLE = {"started": "2026-11-27T03:00:05Z", "verb": "cycle", "state": "unknown", "outcome": "failed"}


def test_a_drill_is_proven_by_what_its_own_job_says() -> None:
    """A later status is no proof, because a doctor may have proven the host since. This test uses no network."""
    drill = Drill(Signer("", b""), "canary", "drill-20261127T030000Z-0123456789ab", as_json=True)
    own = {"at": "2026-11-27T03:01:00Z", "by": "op", "how": "drill"}
    assert "2026-11-27T03:01:00Z, by op" in read_proven(drill, {**CYCLE, "proven": own})
    for proven in (None, own | {"how": "doctor"}, own | {"at": "2026-10-27T03:01:00Z"}):
        with pytest.raises(CommandError, match="could not record"):
            read_proven(drill, {**CYCLE, "proven": proven})
