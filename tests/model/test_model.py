"""The promises of docs/api.md in every state of a model: what is broken where, and by which mistakes.

tests/data/model.yaml has the searches, the mistakes and the gaps.
"""

import math
from pathlib import Path

import pytest

from ..support.rows import read_rows
from ..support.selection import sampled
from . import search as starts
from .search import APART, search
from .world import ALL_GAPS, Gap, Limits, Promise, Rules

WAYS = Path(__file__).with_name("ways.txt")
ROWS = read_rows("model.yaml")
MISTAKES, GAPS, SEARCHES = ROWS["mistakes"], ROWS["gaps"], ROWS["searches"]
QUICK = ("takes_lock", "knows_what_left", "asks_hosts", "gives_up", "doubts_claims", "refuses_second")


def test_a_vm_that_stays_on_its_node() -> None:
    """Two clients, two handlers, one node, nothing that fails: every promise holds, and the search ends."""
    assert search(Rules(), Limits(0, 0), 0).promise == ""


@pytest.mark.all
@pytest.mark.parametrize("name", SEARCHES)
def test_every_state_keeps_the_promises(name: str) -> None:
    """A fault at any moment; a VM that goes and comes back; a fault and a move.

    The last one has several million states; those that take the fewest steps are looked at.
    """
    start, faults, moves, most = SEARCHES[name]
    found = search(Rules(), Limits(faults, moves), ALL_GAPS, most=most, start=getattr(starts, start))
    assert (found.promise, found.trace) == ("", ())
    assert found.states >= (most if most < math.inf else 0)


@pytest.mark.parametrize("faults", sampled([0, 1], 0))
def test_hosts_that_answer_one_after_the_other(faults: int) -> None:
    """An id acts once even if the VM moves between two answers.

    A wrong refusal belongs to a documented gap. A line comes to a host that has just said that it knows nothing of it.
    """
    found = search(Rules(), Limits(faults, 1), ALL_GAPS, but={Promise.NOTHING_CHANGED}, start=APART)
    assert (found.promise, found.trace) == ("", ())


@pytest.mark.parametrize("mistake", sampled(MISTAKES, *QUICK))
def test_each_mistake_is_found(mistake: str) -> None:
    """A model that could not go wrong would prove nothing: each rule that is left out breaks its promise."""
    start, faults, moves, name = MISTAKES[mistake]
    rules, promise = Rules()._replace(**{mistake: False}), getattr(Promise, name)
    but = {Promise.NOTHING_CHANGED} - {promise}
    found = search(rules, Limits(faults, moves), ALL_GAPS, but=but, start=getattr(starts, start))
    assert found.promise == promise, found.trace
    print(f"{mistake}: {found.promise}", *found.trace, sep="\n    ")


@pytest.mark.parametrize("gap", sampled(GAPS, "refused-meanwhile"))
def test_each_gap_is_documented(gap: str) -> None:
    """ways.txt has the shortest way to where a promise does not hold."""
    start, faults, moves, entered, name = GAPS[gap]
    rules, gaps = Rules(says_again=gap != "no-again"), ALL_GAPS - getattr(Gap, entered)
    but = {Promise.NOTHING_CHANGED} - {getattr(Promise, name)}
    found = search(rules, Limits(faults, moves), gaps, but=but, start=getattr(starts, start))
    way = "\n".join(f"{number}. {words}" for number, words in enumerate(found.trace, 1))
    written = f"{gap}: {found.promise}\n{way}"
    assert written in WAYS.read_text(encoding="utf-8").strip().split("\n\n"), written
