"""From alerts to captures: which VM, under which id, and what the evidence shall say it was taken for. Pure.

A payload selects configured entries and nothing else: it never names a VM, a verb or a command. The id is a hash of
what repeats (source, fingerprint, start), so that retries, pairs and replicas ask the host for the same capture.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from ..text import REASON_BYTES, cut_utf8
from .payloads import Alert
from .rules import Rule

MOST_ALERTS = 1000  # of one notification; what comes after is ignored
MOST_A_VM = 50  # ids of one notification that the host is asked to remember; the others fall under the first
_VALUE_CHARS = 1000


@dataclass(frozen=True)
class Capture:
    """One alert that asks for evidence of a VM: what the host is told."""

    vm: str
    job: str
    fresh_seconds: int
    why: str


@dataclass(frozen=True)
class Plan:
    """What a notification comes to: the captures of each VM, in the payload's order, and how many alerts do nothing."""

    captures: Mapping[str, tuple[Capture, ...]]
    ignored: int


def plan(source: str, alerts: Iterable[Alert], rules: Iterable[Rule], now: int) -> Plan:
    """Return what to capture. An alert that several entries match concerns each one's VM, by the first entry of it."""
    of_source = [rule for rule in rules if rule.source == source]
    found: dict[str, dict[str, Capture]] = {}
    ignored = 0
    for number, alert in enumerate(alerts):
        chosen = _first_by_vm(of_source, alert) if alert.firing and number < MOST_ALERTS else {}
        ignored += not chosen
        for vm, rule in chosen.items():
            job = job_id(source, alert, rule.fresh_seconds, now)
            found.setdefault(vm, {}).setdefault(job, Capture(vm, job, rule.fresh_seconds, why(source, alert)))
    return Plan({vm: tuple(captures.values()) for vm, captures in found.items()}, ignored)


def _first_by_vm(rules: Iterable[Rule], alert: Alert) -> dict[str, Rule]:
    chosen: dict[str, Rule] = {}
    for rule in rules:
        if rule.vm not in chosen and rule.matches(alert.labels):
            chosen[rule.vm] = rule
    return chosen


def job_id(source: str, alert: Alert, fresh_seconds: int, now: int) -> str:
    """Return the id of the capture for an alert. One without a start counts as begun with the last `fresh_seconds`, so
    that next month's outage is another one."""
    which = alert.fingerprint or sorted(alert.labels.items())
    since = _instant(alert.starts_at) or now // max(1, fresh_seconds) * max(1, fresh_seconds)
    digest = hashlib.sha256(json.dumps([source, which, since]).encode()).hexdigest()
    return f"alert-{digest[:40]}"


def _instant(text: str) -> str:
    """Return a time in one spelling, so that two senders in two zones agree; what is no time stays as it is."""
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo is None else at.astimezone(UTC)).isoformat()
    except (ValueError, OverflowError):
        return text


def why(source: str, alert: Alert) -> str:
    """Return what fired, for people: one line each, nothing that a terminal obeys, 5 KiB at most."""
    lines = [f"{source}: firing since {_shown(alert.starts_at) or 'an unknown time'}"]
    lines += [f"{_shown(name)}={_shown(value)}" for name, value in alert.labels.items()]
    lines += [f"{_shown(name)}: {_shown(value)}" for name, value in alert.annotations.items()]
    return cut_utf8("\n".join(lines), REASON_BYTES)


def _shown(text: str) -> str:
    """Return a text cut, and with everything written out that is not plainly printable, half characters too."""
    cut = text[:_VALUE_CHARS]
    return cut if cut.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
