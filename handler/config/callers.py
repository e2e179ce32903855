"""Who may ask: the `[callers.NAME]` tables. A fault in an entry switches that caller off, whole. Pure.

A caller has one auth method. Only a signature by the standard can be allowed to change power: a bearer token is
seen by whoever sees one request, and Grafana's signature is bound to no id.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from ..auth.signing import BEARER, GRAFANA, SIGNATURE, TOKEN, Caller, secret_bytes
from ..verbs import ALLOWABLE, VERBS
from .model import is_caller_name
from .reader import Table, Tables

READS = tuple(name for name, verb in VERBS.items() if not verb.mutating)
AUTH_METHODS = {"secret": SIGNATURE, "grafana_secret": GRAFANA, "token": BEARER}
_CALLER_KEYS = (*(key for name in AUTH_METHODS for key in (name, f"{name}_file")), "allow", "vms", "not_after")
_GRAFANA_SECRET_CHARS = 32

Keys = dict[tuple[str, str], list[bytes]]  # by name and key in the file; of every caller, also of one that is off


def read_callers(tables: Tables, vms: Iterable[str]) -> tuple[Caller, ...]:
    """Return the callers that can be used: the entry has no fault and shares no secret with another one."""
    keys: Keys = {}
    entries = tables.get_tables("callers").items()
    callers = [caller for name, table in entries if (caller := _caller(tables, name, table, vms, keys))]
    ambiguous = _sharing(tables, keys)
    return tuple(caller for caller in callers if caller.name not in ambiguous)


def _caller(tables: Tables, name: str, table: Table | None, vms: Iterable[str], found: Keys) -> Caller | None:
    """Return the caller; None when it has a fault."""
    if table is None:
        return None
    path, before = f"callers.{name}", len(tables.problems)
    if not is_caller_name(name):
        tables.problem(path, "is not a usable name", "letters, digits, @ . _ - and at most 64 of them")
    tables.unknown(path, table, _CALLER_KEYS)
    kinds = [kind for kind in AUTH_METHODS if kind in table or f"{kind}_file" in table]
    if len(kinds) > 1:
        tables.problem(path, f"has {len(kinds)} auth methods", f"one caller each: {', '.join(kinds)}")
    kind = kinds[0] if kinds else "secret"
    secrets = tables.secrets_with_source(path, table, kind)
    method = AUTH_METHODS[kind]
    keys = [key for source, secret in secrets if (key := _key(tables, f"{path}.{kind}", method, source, secret))]
    found[name, kind] = keys
    allow = frozenset(tables.get_choices(path, table, "allow", ALLOWABLE if kind == "secret" else READS))
    named = frozenset(tables.get_choices(path, table, "vms", tuple(vms))) if "vms" in table else None
    not_after = _not_after(tables, path, table)
    faulty = len(tables.problems) > before
    return None if faulty else Caller(name, tuple(keys), allow, named, not_after, AUTH_METHODS[kind])


def _not_after(tables: Tables, path: str, table: Table) -> datetime | None:
    value = table.get("not_after")
    if value is None or (isinstance(value, datetime) and value.tzinfo is not None):
        return value
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    tables.problem(f"{path}.not_after", "is not a time", "like 2027-06-01T00:00:00Z, without quotes")
    return None


def _key(tables: Tables, path: str, auth_method: str, source: str, secret: str) -> bytes | None:
    try:
        return KEY_BYTES[auth_method](secret)
    except ValueError as error:
        tables.problem(path, f"{error}{source}", f"make one: breakglass keys new NAME{_FLAGS[auth_method]}")
        return None


def _grafana_bytes(secret: str) -> bytes:
    """Return the key bytes of a Grafana secret, which are those of its text."""
    if len(secret) < _GRAFANA_SECRET_CHARS:
        raise ValueError(f"is shorter than {_GRAFANA_SECRET_CHARS} characters")
    return secret.encode()


def _token_bytes(token: str) -> bytes:
    """Return the bytes of a bearer token; only the form tells a long random one from a password."""
    if not TOKEN.fullmatch(token):
        raise ValueError("is not bgt_ and 43 or more of A-Z a-z 0-9 _ -")
    return token.encode()


KEY_BYTES = {SIGNATURE: secret_bytes, GRAFANA: _grafana_bytes, BEARER: _token_bytes}
_FLAGS = {SIGNATURE: "", GRAFANA: " --grafana", BEARER: " --bearer"}


def _sharing(tables: Tables, found: Keys) -> set[str]:
    """Return the callers that share a secret with another; all of them are off, for none can be told apart."""
    sharing = set()
    for (name, kind), keys in found.items():
        others = [other for (other, _), theirs in found.items() if other != name and not set(theirs).isdisjoint(keys)]
        if others:
            sharing.add(name)
            hint = "give each caller its own: breakglass keys new NAME"
            tables.problem(f"callers.{name}.{kind}", f"is also that of {', '.join(others)}", hint)
    return sharing
