"""What a drill takes for a proof, and which alert it may send."""

from typing import Any

import pytest

from breakglass.alerts.rules import drill_rules
from breakglass.cli.drill import _is_in_chain

HEADS = ["a" * 64, "b" * 64, "c" * 64]
PLACE = {"node": "pve1", "n": 8, "head": "b" * 64}
CHAIN = {"node": "pve1", "n": 9, "head": "c" * 64, "broken": "", "hashes": [head[:16] for head in HEADS]}


def test_a_line_is_in_the_chain_at_its_place() -> None:
    assert _is_in_chain(PLACE, CHAIN)
    assert _is_in_chain({**PLACE, "n": 7, "head": "a" * 64}, CHAIN)


@pytest.mark.parametrize(
    ("place", "chain"),
    [
        ({"head": "d" * 64}, {}),
        ({"n": 9}, {}),
        ({"n": 10}, {}),
        ({"n": 6}, {}),
        ({"n": None}, {}),
        ({}, {"broken": "line 3 is missing"}),
        ({}, {"hashes": None}),
        ({}, {"hashes": []}),
    ],
)
def test_a_line_that_is_not_there_proves_nothing(place: dict[str, Any], chain: dict[str, Any]) -> None:
    assert not _is_in_chain(PLACE | place, CHAIN | chain)


def test_the_built_in_entry_matches_a_drill_of_its_vm_only() -> None:
    [rule] = drill_rules(["canary"])
    assert (rule.source, rule.vm, rule.fresh_seconds) == ("generic", "canary", 0)
    assert rule.matches({"drill": "canary", "other": "label"})
    assert not rule.matches({"drill": "devvm"})
    assert not rule.matches({})
