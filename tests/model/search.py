"""Looks at every state that can be reached, in the order of the steps that it takes. Pure."""

import gc
import math
from collections.abc import Container
from itertools import chain
from typing import NamedTuple

from .steps import changes, progress, steps
from .world import (
    HOLDING,
    IDS,
    KNOWS_OFF,
    UNCHANGED,
    At,
    Gap,
    Limits,
    Phase,
    Power,
    Promise,
    Rules,
    Sending,
    State,
    Told,
)


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


# ---- what the contract promises, as questions about one state


def broken(state: State, gaps: int, is_over: bool) -> str:
    """Return the promise that a state breaks, or an empty text. In the `gaps` an id may act twice, or once refused.

    `is_over`: nothing continues by itself.
    """
    is_excused = bool(state.gaps & gaps)
    if max(state.acts) > 1 and not state.gaps & gaps & ~Gap.FORGOTTEN:
        return Promise.ONCE
    for sending, job_id in zip(state.sendings, IDS, strict=True):
        told = sending.told
        if told == Told.DENIED or (told == Told.UNREACHED and sending.stray):
            return Promise.NOTHING_SENT
        if told in (Phase.REFUSED, Phase.BUSY, Phase.ELSEWHERE) and state.acts[job_id] and not is_excused:
            return Promise.NOTHING_CHANGED
    if state.wrong:
        return state.wrong
    for node in state.nodes:
        first, second = node.jobs
        if first.phase in HOLDING and second.phase in HOLDING:
            return Promise.ALONE
        if any(job.phase in UNCHANGED and job.acted for job in node.jobs):
            return Promise.NOTHING_CHANGED
    if state.power == Power.OFF and not is_said(state) and not state.gaps & Gap.NO_ARCHIVE:
        return Promise.SAID
    return Promise.ENDED if is_over and not has_ended(state) else ""


def is_said(state: State) -> bool:
    """Tell whether the answer to an id says that the VM may be off: the job's, or the archive's after a boot."""
    if any(node.jobs[1].phase == Phase.DONE for node in state.nodes):  # a stop says so
        return True
    jobs = [job for node in state.nodes for job in node.jobs]
    return any(job.phase in KNOWS_OFF or (job.archived and not job.acted and job.phase != Phase.DONE) for job in jobs)


def has_ended(state: State) -> bool:
    """Tell whether every sending has its answer, and every job at a node that is up its end."""
    if any(sending.at not in (At.UNSENT, At.ANSWERED) for sending in state.sendings):
        return False
    return not any(Phase.CLAIMED <= job.phase < Phase.DONE for node in state.nodes if node.up for job in node.jobs)
