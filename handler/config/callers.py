"""The `[callers.NAME]` tables: who may send requests. A fault in an entry switches that caller off. Pure.

A caller has one auth method. Only a signature by the standard can be allowed to change power: everyone who sees one
request sees its bearer token, and Grafana's signature is bound to no id.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

from ..auth.signing import BEARER, GRAFANA, SIGNATURE, TOKEN, Caller, secret_bytes
from ..verbs import ALLOWABLE, VERBS
from .model import is_caller_name
from .reader import Entry, quoted

READS = tuple(name for name in ALLOWABLE if name in VERBS and not VERBS[name].mutating)
AUTH_METHODS = {"secret": SIGNATURE, "grafana_secret": GRAFANA, "token": BEARER}
_GRAFANA_SECRET_CHARS = 32

_Keys = dict[tuple[str, str], list[bytes]]  # by the name and the key in the file, also of a caller that is off


def read_callers(top: Entry, vms: Iterable[str]) -> tuple[Caller, ...]:
    """Return the callers that can be used: the entry has no fault and shares no secret with another one."""
    keys: _Keys = {}
    entries = top.get_tables("callers").items()
    callers = [caller for name, entry in entries if (caller := _caller(name, entry, tuple(vms), keys))]
    ambiguous = _report_shared(top, keys)
    return tuple(caller for caller in callers if caller.name not in ambiguous)


def _caller(name: str, entry: Entry, vms: tuple[str, ...], found: _Keys) -> Caller | None:
    """Return the caller, None when it has a fault; add its keys to `found` in either case."""
    if entry.is_faulty:
        return None
    if not is_caller_name(name):
        entry.problem("", "is not a usable name", "use letters, digits, @ . _ - and at most 64 of them")
    kinds = [kind for kind in AUTH_METHODS if entry.has(kind, f"{kind}_file")]
    if len(kinds) > 1:
        entry.problem("", f"has {len(kinds)} auth methods", f"make one caller each for {', '.join(kinds)}")
    kind = kinds[0] if kinds else "secret"
    keys = [key for source, secret in entry.secrets_with_source(kind) if (key := _key(entry, kind, source, secret))]
    found[name, kind] = keys
    allow = entry.get_choices("allow", ALLOWABLE if kind == "secret" else READS)
    only = frozenset(entry.get_choices("vms", vms)) if entry.has("vms") else None
    not_after = _not_after(entry)
    entry.report_unknown()
    return None if entry.is_faulty else Caller(name, tuple(keys), frozenset(allow), only, not_after, AUTH_METHODS[kind])


def _not_after(entry: Entry) -> datetime | None:
    value = entry.get("not_after")
    if value is None:
        return None
    if isinstance(value, datetime):
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    entry.problem("not_after", f"is not a time: {quoted(value)}", "write it like 2027-06-01T00:00:00Z, without quotes")
    return None


def _key(entry: Entry, kind: str, source: str, secret: str) -> bytes | None:
    method = AUTH_METHODS[kind]
    try:
        return KEY_BYTES[method](secret)
    except ValueError as error:
        entry.problem(kind, f"{error}{source}", f"make one: breakglass keys new NAME --print{_FLAGS[method]}")
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


def _report_shared(top: Entry, found: _Keys) -> set[str]:
    """Return the callers that share a secret with another one: they can't be told apart, so all of them are off."""
    sharing = set()
    for (name, kind), keys in found.items():
        others = [other for (other, _), theirs in found.items() if other != name and not set(theirs).isdisjoint(keys)]
        if others:
            sharing.add(name)
            hint = "give each caller its own: breakglass keys new NAME --print"
            top.problem(f"callers.{name}.{kind}", f"is also the secret of {', '.join(others)}", hint)
    return sharing
