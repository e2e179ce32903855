"""Turns alerts into captures: of which VM, under which id, and with which reason. Pure.

A payload only selects configured entries: it never names a VM, a verb or a command. The id is a MAC of what repeats
(source, fingerprint, start), so that a retry, or a second Alertmanager, asks the host for the same capture. Its key is
the session secret, which replicas share: a caller who could predict the id could use it up before the outage.
"""

import hmac
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ..text import REASON_BYTES, cut_utf8
from ..verbs import CAPTURE_ID
from .payloads import MOST_ALERTS, Alert
from .rules import Rule

MOST_A_VM = 50  # ids of one notification that are sent to a host; the others attach to the first
_VALUE_CHARS = 1000


@dataclass(frozen=True)
class Capture:
    """One alert that asks for evidence of a VM; `why` is the reason that the host records."""

    vm: str
    job: str
    fresh_seconds: int
    why: str


@dataclass(frozen=True)
class Plan:
    """The captures of each VM for one notification, in the payload's order, and the number of alerts without one."""

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
    """Return what to capture; if several entries for one VM match an alert, the first of them decides.

    `secret` is the newest one of `sessions`. Once `in_time` is false, no alert is compared any more: the rest is
    ignored.
    """
    of_source = _Rules([rule for rule in rules if rule.source == source])
    found: dict[str, dict[str, Capture]] = {}
    ignored = 0
    for number, alert in enumerate(alerts):
        chosen = of_source.first_by_vm(alert, in_time) if alert.firing and number < MOST_ALERTS else {}
        ignored += not chosen
        reason = why(source, alert) if chosen else ""
        freshness = {rule.fresh_seconds for rule in chosen.values()}
        jobs = {fresh: job_id(source, alert, fresh, now, secret) for fresh in freshness}
        for vm, rule in chosen.items():
            job = jobs[rule.fresh_seconds]
            found.setdefault(vm, {}).setdefault(job, Capture(vm, job, rule.fresh_seconds, reason))
    return Plan({vm: tuple(captures.values()) for vm, captures in found.items()}, ignored)


class _Rules:
    """The entries of one sender, each under one of its labels that is a plain text.

    So an alert is compared with the few entries that could match it, and with those that have patterns only.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._by_label: dict[tuple[str, str], list[int]] = {}
        self._patterns: list[int] = []
        for number, rule in enumerate(rules):
            plain = next(((name, wanted) for name, wanted in rule.match.items() if isinstance(wanted, str)), None)
            (self._by_label.setdefault(plain, []) if plain else self._patterns).append(number)

    def first_by_vm(self, alert: Alert, in_time: Callable[[], bool]) -> dict[str, Rule]:
        """Return the first entry for each VM that matches an alert, as far as there is time."""
        numbers = [number for label in alert.labels.items() for number in self._by_label.get(label, ())]
        chosen: dict[str, Rule] = {}
        for number in sorted(numbers + self._patterns):
            rule = self._rules[number]
            if not in_time():
                break
            if rule.vm not in chosen and rule.matches(alert.labels):
                chosen[rule.vm] = rule
        return chosen


def job_id(source: str, alert: Alert, fresh_seconds: int, now: int, secret: str) -> str:
    """Return the id of the capture for an alert.

    The start of an alert without one is `now`, rounded down to `fresh_seconds`: a later outage gets another id.
    """
    which = alert.fingerprint or sorted(alert.labels.items())
    since = _instant(alert.starts_at) or now // max(1, fresh_seconds) * max(1, fresh_seconds)
    text = f"breakglass capture\n{json.dumps([source, which, since])}"
    digest = hmac.digest(secret.encode(), text.encode(), "sha256").hex()
    return f"{CAPTURE_ID}{digest[:40]}"


def _instant(text: str) -> str:
    """Return a time in UTC, so that two senders in two zones agree; a text that is not a time stays as it is."""
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is None else at.astimezone(UTC)).isoformat()
    except (ValueError, OverflowError):
        return text


def why(source: str, alert: Alert) -> str:
    """Return what fired, for people: one line each, without control characters, 5 KiB at most."""
    lines = [f"{source}: firing since {_shown(alert.starts_at) or 'an unknown time'}"]
    lines += [f"{_shown(name)}={_shown(value)}" for name, value in alert.labels.items()]
    lines += [f"{_shown(name)}: {_shown(value)}" for name, value in alert.annotations.items()]
    return cut_utf8("\n".join(lines), REASON_BYTES)


def _shown(text: str) -> str:
    """Return a text that is cut and has every unprintable character escaped, lone surrogates too."""
    cut = text[:_VALUE_CHARS]
    return cut if cut.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
