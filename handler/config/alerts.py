"""The `[[alerts]]` entries: which alerts concern which VM. A fault in an entry switches off that entry, whole. Pure."""

import re
from collections.abc import Iterable, Mapping

from ..alerts.payloads import SENDERS
from ..alerts.rules import FRESH_SECONDS, Rule, check_pattern
from .reader import Table, Tables

_DAY = 86400


_PATTERN_HINT = "use text, classes, . * + ? {m,n} and one level of (a|b); * and + twice at most: docs/alerts.md"


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
