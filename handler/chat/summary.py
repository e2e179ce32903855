"""Reads what a turn that has ended was: how it ended, and what it spent. Blocks, because it reads the turn's log."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from ..claude.eventlog import finish_log
from ..claude.events import Table, parse_object
from .endings import KILLED

TAIL_BYTES = 4 * 1024 * 1024  # holds the last events, also with the longest answer that a model gives
_MOST = 1e12  # of what one turn can spend


class TurnSummary(NamedTuple):
    """`ok` or the code of the turn's error, its tokens by kind, and its cost in US dollars."""

    code: str
    tokens: Mapping[str, float]
    cost: float


def finish_turn(path: str) -> TurnSummary:
    """Write the ending of a log whose runner was killed, and return what the turn was. Raises OSError."""
    finish_log(path, *KILLED)
    with open(path, "rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL_BYTES))
        return read_summary(log.read())


def read_summary(tail: bytes) -> TurnSummary:
    """Return what the last lines of a log say. A turn without a result, because it was killed, has spent nothing."""
    code, result = "ok", {}
    for line in reversed(tail.splitlines()[-3:]):  # a result, an error and `done`, each of which may be missing
        event = parse_object(line) or {}
        if event.get("type") == "error":
            code = str(event.get("code"))
        elif event.get("type") == "result":
            result = dict(event)
    tokens = result.get("tokens")
    spent = {str(kind): _amount(tokens, kind) for kind in tokens} if isinstance(tokens, dict) else {}
    return TurnSummary(code, spent, _amount(result, "cost_usd"))


def _amount(table: Table, key: str) -> float:
    value = table.get(key)
    is_valid = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST
    return value if is_valid and value is not None else 0.0
