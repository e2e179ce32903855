"""Which alerts concern which VM: the `[[alerts]]` entries. A fault in an entry switches that entry off, whole. Pure.

A pattern is the operator's and the text that it is held against is the payload's. Python's expressions go back on
their steps, so a pattern is let in only when the most steps that it can take on a text of LABEL_CHARS are few.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from re import _constants as op  # type: ignore[attr-defined]  # the standard library's own reading of a pattern
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from ..config.reader import Table, Tables
from .payloads import SENDERS

FRESH_SECONDS = 600
LABEL_CHARS = 200  # a longer text is equal to something or it is not; no expression is tried on it
MOST_STEPS = 16 * (LABEL_CHARS + 1) ** 2  # a thousand alerts against the worst pattern that was found: six seconds
_DAY = 86400


@dataclass(frozen=True)
class Rule:
    """One entry: an alert of `source` whose labels are all as `match` says concerns `vm`."""

    source: str
    match: Mapping[str, str | re.Pattern[str]]
    vm: str
    fresh_seconds: int = FRESH_SECONDS

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(name in labels and _fits(wanted, labels[name]) for name, wanted in self.match.items())


def _fits(wanted: str | re.Pattern[str], value: str) -> bool:
    if isinstance(wanted, str):
        return wanted == value
    return len(value) <= LABEL_CHARS and wanted.fullmatch(value) is not None


def read_rules(tables: Tables, vms: Iterable[str], named: Iterable[str]) -> tuple[Rule, ...]:
    """Return the entries without a fault. `named` are all VMs in the file: one that is off takes its alerts with it."""
    entries = tables.data.get("alerts", [])
    if not isinstance(entries, list):
        tables.problem("alerts", "is not a list of tables", "write [[alerts]] above each")
        return ()
    known = tuple(vms)
    broken = tuple(set(named) - set(known))
    return tuple(
        rule for n, entry in enumerate(entries) if (rule := _rule(tables, f"alerts[{n}]", entry, known, broken))
    )


def _rule(tables: Tables, path: str, entry: object, vms: tuple[str, ...], off: tuple[str, ...]) -> Rule | None:
    if not isinstance(entry, dict):
        tables.problem(path, "is not a table", "write [[alerts]] above each")
        return None
    before = len(tables.problems)
    tables.unknown(path, entry, ("source", "match", "vm", "fresh_seconds"))
    source, vm = tables.text(path, entry, "source", ""), tables.text(path, entry, "vm", "")
    if source not in SENDERS:
        tables.problem(f"{path}.source", f'is not a sender: "{source[:40]}"', f"one of {', '.join(SENDERS)}")
    if vm in off:
        tables.problem(f"{path}.vm", f'is off: "{vm[:40]}"', "its own entry has a fault")
    elif vm not in vms:
        tables.problem(f"{path}.vm", f'is not a VM: "{vm[:40]}"', f"one of {', '.join(vms)}")
    match, fresh = _match(tables, path, entry), _fresh(tables, path, entry)
    return None if len(tables.problems) > before else Rule(source, match, vm, fresh)


def _match(tables: Tables, path: str, entry: Table) -> Mapping[str, str | re.Pattern[str]]:
    labels = entry.get("match")
    if not isinstance(labels, dict) or not labels:
        tables.problem(f"{path}.match", "names no label", 'like match = { alertname = "DevvmDown" }')
        return {}
    return {name: _wanted(tables, f"{path}.match.{name}", value) for name, value in labels.items()}


def _wanted(tables: Tables, path: str, value: object) -> str | re.Pattern[str]:
    if not isinstance(value, str):
        tables.problem(path, "is not text", "put it in quotes")
        return ""
    if not value.startswith("~"):
        return value
    try:
        pattern = re.compile(value[1:])
        if most_steps(value[1:]) <= MOST_STEPS:
            return pattern
        tables.problem(
            path, "can take too long on a hostile text", "repeat nothing inside a repetition, and use .* twice"
        )
    except (re.error, RecursionError, OverflowError) as error:
        tables.problem(path, f"is not a regular expression: {error}", "Python's, matched whole")
    return ""


def _fresh(tables: Tables, path: str, entry: Table) -> int:
    value = entry.get("fresh_seconds", FRESH_SECONDS)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _DAY:
        return value
    tables.problem(f"{path}.fresh_seconds", "is not a number of seconds", f"0 to {_DAY}; {FRESH_SECONDS} when left out")
    return FRESH_SECONDS


# --- how long a pattern can take ---

_ONE = (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN, op.AT, op.CATEGORY)
_REPEATS = (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT)


def most_steps(pattern: str) -> float:
    """Return how many ways there are, at most, in which a text of LABEL_CHARS can be tried; infinity for a repetition
    in which there is a choice, and for what is not known here."""
    return _ways(_parser.parse(pattern))


def _ways(sequence: Iterable[tuple[Any, Any]]) -> float:
    ways = 1.0
    for kind, rest in sequence:
        ways *= _ways_of(kind, rest)
    return ways


def _ways_of(kind: Any, rest: Any) -> float:
    if kind in _ONE:
        return 1
    if kind is op.SUBPATTERN:
        return _ways(rest[-1])
    if kind is op.BRANCH:
        return sum(_ways(branch) for branch in rest[1])
    if kind in _REPEATS:
        least, most, inside = rest
        choices = min(int(most), LABEL_CHARS) - min(int(least), LABEL_CHARS) + 1
        return _repeated(choices, int(most), _ways(inside))
    return float("inf")


def _repeated(choices: int, most: int, inside: float) -> float:
    """Return the ways of a repetition: with a choice inside it they multiply at every turn."""
    if most <= 1:
        return choices - 1 + inside
    return choices if inside == 1 else float("inf")
