"""The `[[alerts]]` entries: which alerts concern which VM. Pure.

The operator writes a pattern; a payload brings the label that it is compared with. Python's regex engine backtracks, so
a pattern is accepted only if it consists of a few known constructs, without a repetition inside a repetition, and if
trying it on a label of LABEL_CHARS takes few steps.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

FRESH_SECONDS = 600
LABEL_CHARS = 200  # no pattern is tried on a longer label; a plain text is compared with it
MOST_STEPS = 30 * (LABEL_CHARS + 1) ** 2  # measured: the worst pattern takes 13 ms a label, most take less than 1 ms


@dataclass(frozen=True)
class Rule:
    """One entry: an alert of `source` concerns `vm` if its labels fit `match`."""

    source: str
    match: Mapping[str, str | re.Pattern[str]]
    vm: str
    fresh_seconds: int = FRESH_SECONDS

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether an alert's labels fit."""
        return all(name in labels and _fits(wanted, labels[name]) for name, wanted in self.match.items())


def drill_rules(vms: Iterable[str]) -> tuple[Rule, ...]:
    """Return the built-in entries for VMs with drills. A drill's alert names its VM, and always takes a new capture."""
    return tuple(Rule("generic", {"drill": vm}, vm, fresh_seconds=0) for vm in vms)


def _fits(wanted: str | re.Pattern[str], value: str) -> bool:
    if isinstance(wanted, str):
        return wanted == value
    return len(value) <= LABEL_CHARS and wanted.fullmatch(value) is not None


# --- patterns ---

# A pattern is a sequence of these. No two begin with the same character, so there is one way to read a pattern.
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
    if _count(pattern.removeprefix("(?i)")).steps > MOST_STEPS:
        raise ValueError("can take too long on a hostile label")


@dataclass(frozen=True)
class _Cost:
    """Upper bounds for a part of a pattern on one label: the ways to match it, and the characters tried for all."""

    ways: int
    steps: int


def _count(pattern: str) -> _Cost:
    """Return the cost of a pattern. In a sequence the ways multiply, and each way tries the next piece again."""
    branches = [_Cost(1, 0)]
    for token in _TOKEN.finditer(pattern):
        inside, optional, repeat, bar = token.groups()
        if bar:
            branches.append(_Cost(1, 0))
            continue
        piece = _count_repeated(repeat or "{1}") if inside is None else _count(inside)
        before = branches[-1]
        branches[-1] = _Cost(before.ways * (piece.ways + bool(optional)), before.steps + before.ways * piece.steps)
    return _Cost(sum(branch.ways for branch in branches), sum(branch.steps for branch in branches))


def _count_repeated(repeat: str) -> _Cost:
    """Return the cost of one repeated character, which takes at most a whole label."""
    if repeat in ("*", "+"):
        return _Cost(LABEL_CHARS + 1, LABEL_CHARS)
    if repeat == "?":
        return _Cost(2, 1)
    least, _, most = repeat.strip("{}").partition(",")
    longest = min(int(most or least), LABEL_CHARS)
    return _Cost(longest - min(int(least), LABEL_CHARS) + 1, longest)
