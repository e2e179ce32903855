"""Checks [[alerts]]: each entry has a sender, could match that sender's alerts, and matches its samples."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from ..alerts.payloads import Alert, read_payload
from ..alerts.rules import Rule
from ..auth.signing import BEARER, GRAFANA, SIGNATURE, Caller
from ..base.errors import BadRequest
from ..base.findings import Finding
from ..base.manager import manager
from ..base.text import shown
from ..base.threads import run_in_thread
from ..config.model import Config
from .keys import POWER, is_valid
from .visit import ALERTS, Visit, about

SECONDS = 10.0  # enough for a large sample and many patterns
# The labels of those senders whose labels are always the same, as alerts/payloads.py creates them.
_LABELS = {
    "gatus": ("endpoint", "group", "url"),
    "healthchecks": ("name", "slug", "tags"),
    "pve": ("type", "hostname", "severity"),
}
_VALUES = {("pve", "severity"): ("info", "notice", "warning", "error", "unknown")}
_GLOB = re.compile(r"[\w-]\*")
# Values that a sender uses only in its tests, or never.
_NEVER: Mapping[tuple[str, str], Callable[[str], bool]] = {
    ("grafana", "alertname"): lambda text: text == "TestAlert",
    ("pve", "type"): lambda text: text == "test",
    ("pve", "severity"): lambda text: text not in _VALUES["pve", "severity"],
}
_LIKE_A_PATTERN = re.compile(r"\.[*+]|\\[dws.]|\[[^\]]+\]|\([^)]*\|[^)]*\)|^\^|\$$|[A-Za-z]\|[A-Za-z]")
_SENDS = {"grafana": "its own signature or a bearer token"}

found_ok, found_warning, found_error = about(ALERTS)


async def look_at_alerts(visit: Visit, found: list[Finding]) -> None:
    """Add findings for entries that no alert can match, and for entries that match no sample."""
    found += visit.problems_of(ALERTS)
    if config := visit.config:
        found += await run_in_thread(lambda: list(_find(visit, config)), SECONDS)


def _find(visit: Visit, config: Config) -> Iterator[Finding]:
    rules = [(_name(rule), rule) for rule in config.alerts if visit.vm in ("", rule.vm)]
    now = datetime.fromtimestamp(visit.now, UTC)
    samples = {source: _read(source, bodies) for source, bodies in visit.samples.items()}
    for findings in samples.values():
        yield from (finding for finding in findings if isinstance(finding, Finding))
    for number, (name, rule) in enumerate(rules):
        found = [*_judge_sender(name, rule, config.callers, now), *_judge_match(name, rule)]
        if any(_is_same(rule, other) for _, other in rules[:number]):
            found.append(
                found_warning("alert-repeated", f"{name} is in the configuration twice.", "remove one of the two")
            )
        found += _judge_sample(name, rule, [each for each in samples.get(rule.source, ()) if isinstance(each, Alert)])
        if not found:
            hint = "" if rule.source in samples else f"; --sample {rule.source}=FILE tries it with a notification"
            found = [found_ok("alert", f"{name} can match, and a caller may send it{hint}.")]
        yield from found
    for source in samples.keys() - {rule.source for _, rule in rules}:
        fix = f'write [[alerts]] with source = "{source}"; see breakglass docs alerts'
        yield found_error(
            "alert-no-entry",
            f"There is a sample notification of {source}, but no [[alerts]] entry has this source.",
            fix,
        )


def _name(rule: Rule) -> str:
    """Return the name of an entry for sentences: its source, VM and labels."""
    labels = ", ".join(f"{name} = {_quoted(_text(wanted))}" for name, wanted in rule.match.items())
    return f"The entry {rule.source} for {rule.vm} with {{ {labels} }}"


def _text(wanted: str | re.Pattern[str]) -> str:
    return wanted if isinstance(wanted, str) else f"~{wanted.pattern}"


def _is_same(rule: Rule, other: Rule) -> bool:
    wanted = [{name: _text(value) for name, value in each.match.items()} for each in (rule, other)]
    return (rule.source, rule.vm, wanted[0]) == (other.source, other.vm, wanted[1])


# --- Which callers may send the alert ---


def _judge_sender(name: str, rule: Rule, callers: Sequence[Caller], now: datetime) -> Iterator[Finding]:
    """Yield a finding if no caller that this sender can use may run forensics on the VM."""
    flag = " --grafana" if rule.source == "grafana" else " --bearer"
    new = f"breakglass keys new {rule.source}{flag} --allow forensics --vms {rule.vm}, then run {manager().reload}"
    able = [caller for caller in callers if _can_be(caller, rule.source)]
    allowed = [caller for caller in able if "forensics" in caller.allow and caller.may_act_on(rule.vm)]
    valid = [caller for caller in allowed if is_valid(caller, now)]
    if valid:
        return
    sends = _SENDS.get(rule.source, "a bearer token")
    if allowed:
        why = f"the key of {allowed[0].name} has expired"
    elif able:
        why = f"no caller with {sends} may take forensics of {rule.vm}"
        new = f'add "forensics" to allow, and "{rule.vm}" to vms if it is there, of {able[0].name}'
    else:
        why = f"{rule.source} sends {sends}, and no caller has one"
    yield found_error("alert-without-caller", f"{name} gets no notification: {why}.", new)


def _can_be(caller: Caller, source: str) -> bool:
    """Return whether a monitoring system can use this caller, by itself or through a relay that signs."""
    if caller.auth_method == SIGNATURE:
        return source == "generic" or not caller.allow & POWER
    return caller.auth_method == BEARER or (caller.auth_method == GRAFANA and source == "grafana")


# --- Which entries the alert could match ---


def _judge_match(name: str, rule: Rule) -> Iterator[Finding]:
    """Yield a finding for each label that the sender never sends, or never with this value."""
    for label, wanted in rule.match.items():
        text = _text(wanted)
        known = _LABELS.get(rule.source)
        if known is not None and label not in known:
            what = f"{name} never matches: {rule.source} has no label {_quoted(label)}."
            yield found_error("alert-never-matches", what, f"use {' or '.join(known)} in match")
        elif text in ("", "~") and rule.source != "generic":
            what = f"{name} never matches: a label without a value is not sent."
            yield found_error("alert-never-matches", what, f"write the value of {label}")
        elif isinstance(wanted, str) and _is_never_sent(rule.source, label, wanted):
            what = f"{name} never matches: no firing alert of {rule.source} has {label} = {_quoted(wanted)}."
            yield found_error(
                "alert-never-matches", what, f"write another value of {label}; see breakglass docs alerts"
            )
        elif not isinstance(wanted, str) and _matches_no_value(rule, label, wanted):
            what = f"{name} never matches: no {label} of {rule.source} is like that."
            fix = f"write a pattern for some of {', '.join(_VALUES[rule.source, label])}"
            yield found_error("alert-never-matches", what, fix)
        elif isinstance(wanted, str) and _GLOB.search(wanted):
            what = f"{name} compares {label} with a text that has a * in it, which stands for itself there."
            fix = f"write match.{label} = '~{wanted.replace('*', '.*')}'"
            yield found_warning("alert-plain-pattern", what, fix)
        elif text != text.strip() or text.startswith("~ "):
            what = f"{name} has a space at the beginning or the end of {label}."
            yield found_warning("alert-space", what, f'write match.{label} = "{text.strip()}"')
        elif isinstance(wanted, str) and _LIKE_A_PATTERN.search(wanted):
            what = f"{name} compares {label} with a plain text that looks like a pattern, but a pattern begins with ~."
            yield found_warning("alert-plain-pattern", what, f"write match.{label} = '~{wanted}'")


def _matches_no_value(rule: Rule, label: str, wanted: re.Pattern[str]) -> bool:
    """Return whether a pattern matches none of the known values of a sender's label."""
    values = _VALUES.get((rule.source, label), ())
    single = Rule(rule.source, {label: wanted}, rule.vm)
    return bool(values) and not any(single.matches({label: value}) for value in values)


def _is_never_sent(source: str, label: str, value: str) -> bool:
    is_never = _NEVER.get((source, label))
    return is_never is not None and is_never(value)


# --- samples ---


def _read(source: str, bodies: Sequence[bytes]) -> list[Alert | Finding]:
    """Return the alerts in a sender's samples, and a finding for each invalid sample."""
    found: list[Alert | Finding] = []
    for body in bodies:
        try:
            alerts = read_payload(source, body)
        except BadRequest as refused:
            what = f"The sample of {source} is not one of its notifications: {refused.message}."
            found.append(
                found_error(
                    "sample-unreadable",
                    what,
                    f"save a whole notification; breakglass alert-example {source} shows how to have one sent",
                )
            )
            continue
        if not any(alert.firing for alert in alerts):
            what = f"The sample of {source} has no alert that fires, so it is a test, or the end of one."
            found.append(
                found_warning("sample-not-firing", what, "save a notification that was sent when an alert began")
            )
        found += alerts
    return found


def _judge_sample(name: str, rule: Rule, alerts: Sequence[Alert]) -> Iterator[Finding]:
    """Yield a finding if the samples have alerts of this sender but the entry matches none of them."""
    labelled = [alert.labels for alert in alerts if alert.labels]
    if not labelled or any(rule.matches(labels) for labels in labelled):
        return
    closest = max(labelled, key=lambda labels: len(rule.match) - len(_differences(rule, labels)))
    label, wanted = _differences(rule, closest)[0]
    if label not in closest:
        what = f"{name} matches no alert of the sample, and the closest one has no label {_quoted(label)}."
        fix = f"use {' or '.join(map(shown, closest))} in match"
    else:
        what = f"{name} matches no alert of the sample, and the closest one has {label} = {_quoted(closest[label])}."
        fix = f"write match.{label} = {_toml(closest[label])}, if you mean that alert"
        if not isinstance(wanted, str):
            fix += ", or a pattern that matches the whole text"
    yield found_error("alert-sample-differs", what, fix)


def _differences(rule: Rule, labels: Mapping[str, str]) -> list[tuple[str, str | re.Pattern[str]]]:
    """Return the labels of an entry that an alert does not have, or has with another value."""
    singles = {name: Rule(rule.source, {name: wanted}, rule.vm) for name, wanted in rule.match.items()}
    return [(name, rule.match[name]) for name, single in singles.items() if not single.matches(labels)]


def _toml(text: str) -> str:
    return f"'{text}'" if "\\" in text and "'" not in text else _quoted(text)


def _quoted(text: str) -> str:
    return '"' + shown(text) + '"'
