"""The promises of docs/api.md in every state of a model: what is broken where, and by which mistakes."""

import math
from pathlib import Path

import pytest

from ..support.selection import sampled
from .search import APART, LIAR, START, STOP_TWICE, TWICE, WITHOUT_A, WITHOUT_B, search
from .world import ALL_GAPS, Gap, Limits, Promise, Rules, State

WAYS = Path(__file__).with_name("ways.txt")

# Each mistake: who is there, how much has to happen before it shows, and which promise it breaks first.
MISTAKES = {
    "claims_once": (START, Limits(0, 0), Promise.NOTHING_CHANGED),
    "takes_lock": (START, Limits(0, 0), Promise.ALONE),
    "looks_under_lock": (START, Limits(0, 0), Promise.LAST),
    "looks_before_acting": (START, Limits(0, 0), Promise.LAST),
    "archives_before_acting": (WITHOUT_B, Limits(1, 0), Promise.ONCE),
    "asks_archive": (WITHOUT_B, Limits(1, 0), Promise.ONCE),
    "standby_yields": (START, Limits(1, 0), Promise.ALONE),
    "says_stranded": (WITHOUT_B, Limits(2, 0), Promise.SAID),
    "looks_again": (WITHOUT_A, Limits(0, 1), Promise.TRUE),
    "says_what_it_sees": (WITHOUT_A, Limits(1, 1), Promise.TRUE),
    "knows_what_left": (WITHOUT_B, Limits(1, 0), Promise.NOTHING_SENT),
    "remembers_sent": (WITHOUT_B, Limits(1, 0), Promise.NOTHING_SENT),
    "gives_up": (WITHOUT_B, Limits(1, 0), Promise.ENDED),
    "asks_hosts": (WITHOUT_B, Limits(0, 1), Promise.ONCE),
    "asks_all": (WITHOUT_B, Limits(0, 1), Promise.ONCE),
    "waits_for_all": (WITHOUT_B, Limits(1, 1), Promise.ONCE),
    "goes_where_known": (WITHOUT_B, Limits(0, 1), Promise.ONCE),
    "stays": (WITHOUT_B, Limits(1, 1), Promise.ONCE),
    "stays_where_known": (WITHOUT_B, Limits(1, 1), Promise.ONCE),
    "denies_nothing_known": (WITHOUT_B, Limits(1, 0), Promise.NOTHING_SENT),
    "needs_one_proof": (APART, Limits(0, 1), Promise.ONCE),
    "proves_by_quorum": (WITHOUT_A, Limits(2, 1), Promise.FOUND),
    "doubts_claims": (LIAR, Limits(0, 0), Promise.FOUND),
    "refuses_second": (TWICE, Limits(0, 1), Promise.SINGLE),
    "ends_copies": (STOP_TWICE, Limits(0, 1), Promise.ENDS_IT),
    "proves_stops": (STOP_TWICE, Limits(1, 1), Promise.TRUE),
    "elsewhere_is_known": (WITHOUT_B, Limits(0, 1), Promise.NOTHING_CHANGED),
    "elsewhere_is_final": (WITHOUT_B, Limits(0, 2), Promise.NOTHING_CHANGED),
}
QUICK = ("takes_lock", "knows_what_left", "asks_hosts", "gives_up", "doubts_claims", "refuses_second")

# Where a promise does not hold: ways.txt has the way there.
GAPS = {
    "moved-meanwhile": (WITHOUT_B, Rules(), Limits(0, 2), Gap.MOVED_MEANWHILE, Promise.ONCE),
    "refused-meanwhile": (WITHOUT_B, Rules(), Limits(0, 1), Gap.MOVED_MEANWHILE, Promise.NOTHING_CHANGED),
    "overtaken": (WITHOUT_B, Rules(), Limits(1, 1), Gap.OVERTAKEN, Promise.ONCE),
    "no-again": (WITHOUT_B, Rules(says_again=False), Limits(1, 1), Gap.NO_AGAIN, Promise.ONCE),
    "no-archive": (WITHOUT_B, Rules(), Limits(2, 0), Gap.NO_ARCHIVE, Promise.ONCE),
    "forgotten": (START, Rules(), Limits(1, 0), Gap.FORGOTTEN, Promise.NOTHING_CHANGED),
}


def test_a_vm_that_stays_on_its_node() -> None:
    """Two clients, two handlers, one node, nothing that fails: every promise holds, and the search ends."""
    assert search(Rules(), Limits(0, 0), 0).promise == ""


@pytest.mark.all
@pytest.mark.parametrize(
    ("start", "limits", "most"),
    [
        (START, Limits(1, 0), math.inf),
        (START, Limits(0, 2), math.inf),
        (WITHOUT_B, Limits(1, 1), math.inf),
        (WITHOUT_A, Limits(2, 1), math.inf),
        (TWICE, Limits(1, 1), math.inf),
        (STOP_TWICE, Limits(1, 1), math.inf),
        (START, Limits(1, 1), 1_000_000),
    ],
    ids=[
        "one-fault",
        "two-moves",
        "a-fault-and-a-move",
        "two-faults-and-a-move-of-a-stop",
        "two-nodes",
        "two-nodes-and-a-stop",
        "both-with-two-clients",
    ],
)
def test_every_state_keeps_the_promises(start: State, limits: Limits, most: float) -> None:
    """A fault at any moment; a VM that goes and comes back; a fault and a move.

    The last one has several million states; those that take the fewest steps are looked at.
    """
    found = search(Rules(), limits, ALL_GAPS, most=most, start=start)
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
    start, limits, promise = MISTAKES[mistake]
    but = {Promise.NOTHING_CHANGED} - {promise}
    found = search(Rules()._replace(**{mistake: False}), limits, ALL_GAPS, but=but, start=start)
    assert found.promise == promise, found.trace
    print(f"{mistake}: {found.promise}", *found.trace, sep="\n    ")


@pytest.mark.parametrize("gap", sampled(GAPS, "refused-meanwhile"))
def test_each_gap_is_documented(gap: str) -> None:
    """ways.txt has the shortest way to where a promise does not hold."""
    start, rules, limits, entered, promise = GAPS[gap]
    found = search(rules, limits, ALL_GAPS - entered, but={Promise.NOTHING_CHANGED} - {promise}, start=start)
    way = "\n".join(f"{number}. {words}" for number, words in enumerate(found.trace, 1))
    written = f"{gap}: {found.promise}\n{way}"
    assert written in WAYS.read_text(encoding="utf-8").strip().split("\n\n"), written
