"""Decides which alerts start a capture, by the `[[alerts]]` entries. Pure."""

import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ..base.text import REASON_BYTES, cut_utf8
from ..base.verbs import CAPTURE_ID, DRILL_ID
from .payloads import MOST_ALERTS, Alert

# --- The `[[alerts]]` entries: which alerts concern which VM. Pure ---
#
# The operator writes a pattern, which is compared with a label from a payload. Python's regex engine backtracks, so a
# pattern is accepted only if it consists of a few known constructs, without a repetition inside a repetition, and if
# trying it on a label of LABEL_CHARS takes few steps.

FRESH_SECONDS = 600
LABEL_CHARS = 200  # a longer label is not compared with patterns, only with plain texts
# measured: the worst pattern takes 13 ms for each label, most take less than 1 ms
MOST_STEPS = 30 * (LABEL_CHARS + 1) ** 2


@dataclass(frozen=True)
class Rule:
    """One entry: an alert of `source` concerns `vm` if its labels fit `match`."""

    source: str
    match: Mapping[str, str | re.Pattern[str]]
    vm: str
    fresh_seconds: int = FRESH_SECONDS
    is_drill: bool = False
    opinion_usd: int = 0  # once opinions on the VM have cost this much in a day, none begins; 0 if none is wanted

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Tell whether an alert's labels fit."""
        return all(name in labels and _fits(wanted, labels[name]) for name, wanted in self.match.items())


def drill_rules(vms: Iterable[str]) -> tuple[Rule, ...]:
    """Return the built-in entries for VMs with drills. A drill's alert names its VM, and always takes a new capture."""
    return tuple(Rule("generic", {"drill": vm}, vm, fresh_seconds=0, is_drill=True) for vm in vms)


def _fits(wanted: str | re.Pattern[str], value: str) -> bool:
    if isinstance(wanted, str):
        return wanted == value
    return len(value) <= LABEL_CHARS and wanted.fullmatch(value) is not None


# --- patterns ---

# A pattern is a sequence of these constructs. No two of them begin with the same character, so a pattern can be read in
# one way only.
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
        raise ValueError("can take too long to match a hostile label")


@dataclass(frozen=True)
class _Cost:
    """Upper bounds for a part of a pattern and one label: the ways to match, and all characters compared."""

    ways: int
    steps: int


def _count(pattern: str) -> _Cost:
    """Return the cost of a pattern.

    In a sequence, the ways of the pieces are multiplied, because each way to match one piece tries the next piece.
    """
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


# --- Decide which VM an alert captures, under which id, and with which reason. Pure ---
#
# A payload only selects configured entries. It never names a VM, a verb or a command. The id is a MAC of the fields
# that stay the same when an alert is sent again (source, fingerprint, start), so that a retry, or a second
# Alertmanager, asks the host for the same capture. The key of the MAC is the session secret, which replicas share,
# because a caller who could predict the id could use that id up before the outage.

# one notification sends at most this many ids to the host of a VM; its other alerts attach to the first id's capture
MOST_A_VM = 50
_VALUE_CHARS = 1000


@dataclass(frozen=True)
class Capture:
    """One alert that asks for evidence of a VM; `why` is the reason that the host records."""

    vm: str
    job: str
    fresh_seconds: int
    why: str
    opinion_usd: int = 0


@dataclass(frozen=True)
class Plan:
    """The captures of one notification by VM, in the payload's order, and the number of ignored alerts."""

    captures: Mapping[str, tuple[Capture, ...]]
    ignored: int


def plan(
    source: str,
    alerts: Iterable[Alert],
    rules: Iterable[Rule],
    now: int,
    secret: str,
    in_time: Callable[[], bool] = lambda: True,
) -> Plan:
    """Return what to capture. If several entries for one VM match an alert, the first entry decides.

    `secret` is the newest secret of `sessions`. Once `in_time` returns False, the remaining alerts are ignored.
    """
    of_source = _Rules([rule for rule in rules if rule.source == source])
    found: dict[str, dict[str, Capture]] = {}
    ignored = 0
    for number, alert in enumerate(alerts):
        chosen = of_source.first_by_vm(alert, in_time) if alert.firing and number < MOST_ALERTS else {}
        ignored += not chosen
        reason = why(source, alert) if chosen else ""
        freshness = {(rule.fresh_seconds, rule.is_drill) for rule in chosen.values()}
        jobs = {key: job_id(source, alert, key[0], now, secret, key[1]) for key in freshness}
        for vm, rule in chosen.items():
            job = jobs[rule.fresh_seconds, rule.is_drill]
            found.setdefault(vm, {}).setdefault(job, Capture(vm, job, rule.fresh_seconds, reason, rule.opinion_usd))
    return Plan({vm: tuple(captures.values()) for vm, captures in found.items()}, ignored)


class _Rules:
    """The entries of one sender, indexed by one label of each entry that is a plain text.

    An alert is compared only with the entries that have one of its labels, and with those that have nothing but
    patterns.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._by_label: dict[tuple[str, str], list[int]] = {}
        self._patterns: list[int] = []
        for number, rule in enumerate(rules):
            plain = next(((name, wanted) for name, wanted in rule.match.items() if isinstance(wanted, str)), None)
            (self._by_label.setdefault(plain, []) if plain else self._patterns).append(number)

    def first_by_vm(self, alert: Alert, in_time: Callable[[], bool]) -> dict[str, Rule]:
        """Return, for each VM, the first entry that matches an alert. Stops when the time is up."""
        numbers = [number for label in alert.labels.items() for number in self._by_label.get(label, ())]
        chosen: dict[str, Rule] = {}
        for number in sorted(numbers + self._patterns):
            rule = self._rules[number]
            if not in_time():
                break
            if rule.vm not in chosen and rule.matches(alert.labels):
                chosen[rule.vm] = rule
        return chosen


def job_id(source: str, alert: Alert, fresh_seconds: int, now: int, secret: str, is_drill: bool = False) -> str:
    """Return the id of the capture for an alert.

    If an alert has no start, `now` rounded down to `fresh_seconds` is used, so a later outage gets another id.
    """
    which = alert.fingerprint or sorted(alert.labels.items())
    since = _instant(alert.starts_at) or now // max(1, fresh_seconds) * max(1, fresh_seconds)
    text = f"breakglass capture\n{json.dumps([source, which, since])}"
    digest = hmac.digest(secret.encode(), text.encode(), "sha256").hex()
    return f"{DRILL_ID if is_drill else CAPTURE_ID}{digest[:40]}"


def _instant(text: str) -> str:
    """Return a time in UTC, so that two senders in two zones agree; a text that is not a time stays as it is."""
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is None else at.astimezone(UTC)).isoformat()
    except (ValueError, OverflowError):
        return text


def why(source: str, alert: Alert) -> str:
    """Return what fired, for people: one line for each alert, no control characters, at most 5 KiB."""
    lines = [f"{source}: firing since {_shown(alert.starts_at) or 'an unknown time'}"]
    lines += [f"{_shown(name)}={_shown(value)}" for name, value in alert.labels.items()]
    lines += [f"{_shown(name)}: {_shown(value)}" for name, value in alert.annotations.items()]
    return cut_utf8("\n".join(lines), REASON_BYTES)


def _shown(text: str) -> str:
    """Return a text, cut, with every unprintable character escaped, even lone surrogates."""
    cut = text[:_VALUE_CHARS]
    return cut if cut.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
