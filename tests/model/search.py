"""Looks at every state that can be reached, in the order of the steps that it takes. Pure."""

import gc
import math
from collections.abc import Container
from itertools import chain
from typing import NamedTuple

from .promises import broken
from .steps import changes, progress, steps
from .world import At, Limits, Rules, Sending, State


class Found(NamedTuple):
    """How many states there were; and the promise that was broken first, with the shortest way there, if one was."""

    states: int
    promise: str = ""
    trace: tuple[str, ...] = ()


START = State()
WITHOUT_B = State(sendings=(*START.sendings[:2], Sending(at=At.ANSWERED)))  # has a tenth of the states
APART = WITHOUT_B._replace(apart=True)
LIAR = WITHOUT_B._replace(lies=True)
TWICE = WITHOUT_B._replace(twice=True)
WITHOUT_A = State(sendings=(*(Sending(at=At.ANSWERED),) * 2, START.sendings[2]))
STOP_TWICE = WITHOUT_A._replace(twice=True)


def search(
    rules: Rules,
    limits: Limits,
    gaps: int,
    but: Container[str] = (),
    most: float = math.inf,
    start: State = START,
) -> Found:
    """Visit the states breadth first, until a promise is broken that is not in `but`. In the `gaps` it may.

    It ends once all were seen, or `most` of them. Millions of tuples without a cycle are nothing for the collector.
    """
    gc.disable()
    try:
        return _search(rules, limits, gaps, but, most, start)
    finally:
        gc.enable()


def _search(rules: Rules, limits: Limits, gaps: int, but: Container[str], most: float, start: State) -> Found:
    came_from: dict[State, State | None] = {start: None}
    waiting = [start]
    while waiting:
        reached = []
        for state in waiting:
            if len(came_from) >= most:
                return Found(len(came_from))
            going_on = list(progress(state, rules))
            if (promise := broken(state, gaps, is_over=not going_on)) and promise not in but:
                return Found(len(came_from), promise, _trace(state, came_from, rules, limits))
            for _, following in chain(going_on, changes(state, rules, limits)):
                if following not in came_from:
                    came_from[following] = state
                    reached.append(following)
        waiting = reached
    return Found(len(came_from))


def _trace(state: State, came_from: dict[State, State | None], rules: Rules, limits: Limits) -> tuple[str, ...]:
    """Return the sentence of each step from the start."""
    said: list[str] = []
    while (before := came_from[state]) is not None:
        said.append(next(words for words, following in steps(before, rules, limits) if following == state))
        state = before
    return tuple(reversed(said))
