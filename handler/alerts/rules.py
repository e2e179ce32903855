"""Which alerts concern which VM: the `[[alerts]]` entries. A fault in an entry switches that entry off, whole. Pure.

The operator writes a pattern and a payload brings the label that it is tried on. Python's regex engine backtracks, so a
pattern is accepted only if it consists of a few known constructs, without a repetition inside a repetition, and if
there are few ways to try it on a label of LABEL_CHARS.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..config.reader import Table, Tables
from .payloads import SENDERS

FRESH_SECONDS = 600
LABEL_CHARS = 200  # a longer text is equal to something or it is not; no expression is tried on it
MOST_WAYS = 16 * (LABEL_CHARS + 1) ** 2  # a thousand alerts against the worst pattern that was found: six seconds
_DAY = 86400
_PATTERN_HINT = "use text, classes, . * + ? {m,n} and one level of (a|b); * and + twice at most: docs/alerts.md"


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
    source, vm = tables.get_str(path, entry, "source", ""), tables.get_str(path, entry, "vm", "")
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
        check_pattern(value[1:])
    except ValueError as error:
        tables.problem(path, str(error), _PATTERN_HINT)
        return ""
    return re.compile(value[1:])


def _fresh(tables: Tables, path: str, entry: Table) -> int:
    value = entry.get("fresh_seconds", FRESH_SECONDS)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _DAY:
        return value
    tables.problem(f"{path}.fresh_seconds", "is not a number of seconds", f"0 to {_DAY}; {FRESH_SECONDS} when left out")
    return FRESH_SECONDS


# --- patterns ---

# A pattern is a sequence of these. Each begins with characters of its own, so a pattern can be read in one way only.
_ESCAPED = r"\\[dDwWsS]|\\[^A-Za-z0-9]"
_CLASS = rf"\[\^?\]?(?:{_ESCAPED}|(?!--|&&|~~|\|\|)[^\[\]\\])*\]"
_CHARACTER = rf"(?:{_ESCAPED}|{_CLASS}|[^\\\[\](){{}}*+?|^$])"
_REPEAT = r"[*+?]|\{[0-9]{1,3}(?:,[0-9]{1,3})?\}"
_PIECE = rf"{_CHARACTER}(?:{_REPEAT})?|[\^$]|\\b"
_GROUP = rf"\((?:\?:)?((?:{_PIECE}|\|)*)\)(\??)"
_SUPPORTED = re.compile(rf"(?:\(\?i\))?(?:{_PIECE}|{_GROUP}|\|)*")
_TOKEN = re.compile(rf"{_GROUP}|{_CHARACTER}({_REPEAT})|(\|)|{_PIECE}")


def check_pattern(pattern: str) -> None:
    """Raise ValueError, with the reason, for a pattern that is not supported or could take too long."""
    supported = _SUPPORTED.match(pattern)
    assert supported is not None
    if rest := pattern[supported.end() :]:
        raise ValueError(f'has a part that is not supported, from here on: "{rest[:40]}"')
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    if _count_ways(pattern.removeprefix("(?i)")) > MOST_WAYS:
        raise ValueError("can take too long on a hostile label")


def _count_ways(pattern: str) -> int:
    """Return in how many ways at most a pattern can be tried on a label: choices in a sequence multiply."""
    branches = [1]
    for token in _TOKEN.finditer(pattern):
        inside, optional, repeat, bar = token.groups()
        if bar:
            branches.append(1)
        elif inside is not None:
            branches[-1] *= _count_ways(inside) + bool(optional)
        else:
            branches[-1] *= _count_lengths(repeat or "{1}")
    return sum(branches)


def _count_lengths(repeat: str) -> int:
    """Return how many lengths a repeated character can have in a label."""
    if repeat in ("*", "+"):
        return LABEL_CHARS + 1
    if repeat == "?":
        return 2
    least, _, most = repeat.strip("{}").partition(",")
    return min(int(most or least), LABEL_CHARS) - min(int(least), LABEL_CHARS) + 1
