"""The `[[alerts]]` entries: they say which alerts concern which VM. An error in an entry disables that entry. Pure."""

import re
from collections.abc import Iterable, Mapping

from ..alerts.payloads import SENDERS
from ..alerts.rules import FRESH_SECONDS, Rule, check_pattern
from .reader import Entry, quoted

_DAY = 86400
_PATTERN_HINT = (
    "use text, classes, . * + ? {m,n} and one level of (a|b); * and + twice at most; see breakglass docs alerts"
)

_Wanted = str | re.Pattern[str]


def read_rules(top: Entry, vms: Iterable[str], named: Iterable[str]) -> tuple[Rule, ...]:
    """Return the entries without a fault.

    `named` are all VMs in the file, and `vms` the valid ones. So the entries of a disabled VM are disabled too.
    """
    on = tuple(vms)
    off = set(named) - set(on)
    return tuple(rule for entry in top.get_list("alerts") if (rule := _rule(entry, on, off)))


def _rule(entry: Entry, vms: tuple[str, ...], off: set[str]) -> Rule | None:
    if entry.is_faulty:
        return None
    source, vm = entry.get_str("source"), entry.get_str("vm")
    if source not in SENDERS:
        entry.problem("source", f"is not a sender: {quoted(source)}", f"use one of {', '.join(SENDERS)}")
    if vm in off:
        entry.problem("vm", f"is disabled: {quoted(vm)}", "correct the error in its own entry")
    elif vm not in vms:
        entry.problem("vm", f"is not a VM: {quoted(vm)}", f"use {' or '.join(vms)}")
    match = _match(entry)
    fresh_seconds = entry.get_number("fresh_seconds", FRESH_SECONDS, 0, _DAY)
    usd = entry.get_number("diagnose_usd", 1, 1, 1000)
    opinion_usd = usd if entry.get_flag("diagnose") else 0
    entry.report_unknown()
    return None if entry.is_faulty else Rule(source, match, vm, fresh_seconds, opinion_usd=opinion_usd)


def _match(entry: Entry) -> Mapping[str, _Wanted]:
    labels = entry.get("match")
    if not isinstance(labels, dict) or not labels:
        entry.problem("match", "names no label", 'write it like match = { alertname = "DevvmDown" }')
        return {}
    return {name: _wanted(entry, f"match.{name}", value) for name, value in labels.items()}


def _wanted(entry: Entry, key: str, value: object) -> _Wanted:
    """Return the text that a label must equal, or the pattern if the value begins with ~."""
    if not isinstance(value, str):
        entry.problem(key, f"is not text: {quoted(value)}", "put it in quotes")
        return ""
    if not value.startswith("~"):
        return value
    try:
        check_pattern(value[1:])
    except ValueError as error:
        entry.problem(key, str(error), _PATTERN_HINT)
        return ""
    return re.compile(value[1:])
