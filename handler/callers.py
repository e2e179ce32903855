"""Who may ask: the `[callers.NAME]` tables. A fault in an entry switches that caller off, whole. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime

from .settings import is_caller_name
from .signing import Caller, secret_bytes
from .tables import Table, Tables
from .verbs import ALLOWABLE

_LATER_CALLER_KEYS = ("grafana_secret", "grafana_secret_file", "token", "token_file")

Keys = dict[str, list[bytes]]  # of every caller, also of one that is off


def read_callers(tables: Tables, vms: Iterable[str]) -> tuple[Caller, ...]:
    """Return the callers that can be used: the entry has no fault and shares no secret with another one."""
    keys: Keys = {}
    entries = tables.tables("callers").items()
    callers = [caller for name, table in entries if (caller := _caller(tables, name, table, vms, keys))]
    ambiguous = _sharing(tables, keys)
    return tuple(caller for caller in callers if caller.name not in ambiguous)


def _caller(tables: Tables, name: str, table: Table | None, vms: Iterable[str], found: Keys) -> Caller | None:
    """Return the caller; None when it has a fault, and when it proves itself in a way that is not served yet."""
    if table is None:
        return None
    path, before = f"callers.{name}", len(tables.problems)
    if not is_caller_name(name):
        tables.problem(path, "is not a usable name", "letters, digits, @ . _ - and at most 64 of them")
    tables.unknown(path, table, ("secret", "secret_file", "allow", "vms", "not_after", *_LATER_CALLER_KEYS))
    later, signs = any(key in table for key in _LATER_CALLER_KEYS), "secret" in table or "secret_file" in table
    if later and signs:
        tables.problem(path, "has two ways to prove itself", "one caller each: secret, grafana_secret or token")
    if later and not signs:
        return None  # good for /alert and bearer reads only
    keys = [key for secret in tables.secrets(path, table, "secret") if (key := _key(tables, path, secret))]
    found[name] = keys
    allow = frozenset(tables.words(path, table, "allow", ALLOWABLE))
    named = frozenset(tables.words(path, table, "vms", tuple(vms))) if "vms" in table else None
    not_after = _not_after(tables, path, table)
    return None if len(tables.problems) > before else Caller(name, tuple(keys), allow, named, not_after)


def _not_after(tables: Tables, path: str, table: Table) -> datetime | None:
    value = table.get("not_after")
    if value is None or (isinstance(value, datetime) and value.tzinfo is not None):
        return value
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    tables.problem(f"{path}.not_after", "is not a time", "like 2027-06-01T00:00:00Z, without quotes")
    return None


def _key(tables: Tables, path: str, secret: str) -> bytes | None:
    try:
        return secret_bytes(secret)
    except ValueError as error:
        tables.problem(f"{path}.secret", str(error), "make one: breakglass keys new NAME")
        return None


def _sharing(tables: Tables, found: Keys) -> set[str]:
    """Return the callers that share a secret with another; all of them are off, for none can be told apart."""
    sharing = set()
    for name, keys in found.items():
        others = [other for other, theirs in found.items() if other != name and not set(theirs).isdisjoint(keys)]
        if others:
            sharing.add(name)
            hint = "give each caller its own: breakglass keys new NAME"
            tables.problem(f"callers.{name}.secret", f"is also that of {', '.join(others)}", hint)
    return sharing
