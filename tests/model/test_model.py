"""The promises of docs/protocol.md in every state of a model: what is broken where, and by which mistakes."""

import math
from pathlib import Path

import pytest

from ..support.selection import sampled
from .promises import ALONE, ENDED, FOLLOWED, LAST, NOTHING_CHANGED, NOTHING_SENT, ONCE, SAID
from .search import START, WITHOUT_B, search
from .world import ALL_GAPS, FORGOTTEN, MOVED_MEANWHILE, NO_AGAIN, NO_ARCHIVE, Limits, Rules

THREATS = Path(__file__).parents[2] / "docs/threat-model.md"

TODAY = Rules(follows=False, asks_others=False, finds_elsewhere_first=False)

# Each mistake: how much has to happen before it shows, and which promise it breaks first.
MISTAKES = {
    "claims_once": (Limits(0, 0), NOTHING_CHANGED),
    "takes_lock": (Limits(0, 0), ALONE),
    "looks_under_lock": (Limits(0, 0), LAST),
    "looks_before_acting": (Limits(0, 0), LAST),
    "archives_before_acting": (Limits(1, 0), ONCE),
    "asks_archive": (Limits(1, 0), ONCE),
    "standby_yields": (Limits(1, 0), ALONE),
    "says_stranded": (Limits(2, 0), SAID),
    "knows_what_left": (Limits(1, 0), NOTHING_SENT),
    "remembers_sent": (Limits(1, 0), NOTHING_SENT),
    "follows": (Limits(0, 1), FOLLOWED),
    "asks_others": (Limits(0, 1), ONCE),
    "waits_for_others": (Limits(1, 1), ONCE),
    "elsewhere_is_new": (Limits(0, 1), FOLLOWED),
    "finds_elsewhere_first": (Limits(0, 2), NOTHING_CHANGED),
    "gives_up": (Limits(1, 0), ENDED),
}
QUICK = ("takes_lock", "knows_what_left", "asks_others", "gives_up")

# Where a promise does not hold today: docs/threat-model.md has the way there.
GAPS = {
    "moved": (Limits(0, 1), ALL_GAPS),
    "no-archive": (Limits(2, 0), ALL_GAPS - NO_ARCHIVE),
    "forgotten": (Limits(1, 0), ALL_GAPS - FORGOTTEN),
}

# Where it would not hold either with a handler that follows the VM.
LEFT = {
    "moved-meanwhile": (Rules(), Limits(0, 2), ALL_GAPS - MOVED_MEANWHILE),
    "no-again": (Rules(says_again=False), Limits(1, 1), ALL_GAPS - NO_AGAIN),
}


def test_a_vm_that_stays_on_its_node() -> None:
    """Two clients, two handlers, one node, nothing that fails: every promise holds, and the search ends."""
    assert search(TODAY, Limits(0, 0), 0).promise == ""


@pytest.mark.all
@pytest.mark.parametrize(
    ("rules", "limits", "most"),
    [(TODAY, Limits(1, 0), math.inf), (Rules(), Limits(0, 2), math.inf), (Rules(), Limits(1, 1), 1_000_000)],
    ids=["one-fault", "two-moves", "a-fault-and-a-move"],
)
def test_every_state_keeps_the_promises(rules: Rules, limits: Limits, most: float) -> None:
    """A fault at any moment, today; with a handler that follows, a VM that goes and comes back, or a fault and a move.

    The last one has several million states; those that take the fewest steps are looked at.
    """
    found = search(rules, limits, ALL_GAPS, most=most)
    assert (found.promise, found.trace) == ("", ())
    assert found.states > (most if most < math.inf else 0)


@pytest.mark.parametrize("mistake", sampled(MISTAKES, *QUICK))
def test_each_mistake_is_found(mistake: str) -> None:
    """A model that could not go wrong would prove nothing: each rule that is left out breaks its promise."""
    limits, promise = MISTAKES[mistake]
    start = WITHOUT_B if limits == Limits(1, 1) else START
    found = search(Rules()._replace(**{mistake: False}), limits, ALL_GAPS, start=start)
    assert found.promise == promise, found.trace
    print(f"{mistake}: {found.promise}", *found.trace, sep="\n    ")


@pytest.mark.parametrize("gap", sampled(GAPS, "moved"))
def test_each_gap_is_documented(gap: str) -> None:
    """The threat model has the shortest way to where a promise does not hold."""
    limits, gaps = GAPS[gap]
    start = START if gap == "forgotten" else WITHOUT_B
    found = search(TODAY, limits, gaps, but={FOLLOWED}, start=start)
    way = "\n".join(f"{number}. {words}" for number, words in enumerate(found.trace, 1))
    written = f"```text\n{gap}: {found.promise}\n{way}\n```"
    assert written in THREATS.read_text(encoding="utf-8"), written


@pytest.mark.all
@pytest.mark.parametrize("gap", LEFT)
def test_what_following_would_leave_open(gap: str) -> None:
    """The gaps that the search is told to excuse are there: without them, the promise does not hold."""
    assert search(*LEFT[gap], start=WITHOUT_B).promise == ONCE
