"""The `[callers.NAME]` tables, in the configuration or in callers.d, and the `[metrics]` table. Pure."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from ..auth.signing import BEARER, GRAFANA, SIGNATURE, TOKEN, Caller, secret_bytes
from ..base.verbs import ALLOWABLE, READS, VERBS
from .entries import NamedEntry, OwnFiles, list_entries
from .model import is_caller_name
from .reader import Entry, in_file, quoted

# --- Who may send requests: the `[callers.NAME]` tables, and the files `callers.d/NAME.toml` with the same keys. Pure.
# An error in an entry disables that caller. A caller has one auth method. Only a signature by Standard Webhooks can be
# allowed to change power, because anyone who sees a request can reuse its bearer token, and because Grafana's
# signature does not cover the id of a request.

NAME_HINT = "use letters, digits, @ . _ - and at most 64 of them, and no dot at the beginning"
AUTH_METHODS = {"secret": SIGNATURE, "grafana_secret": GRAFANA, "token": BEARER}
_GRAFANA_SECRET_CHARS = 32


_Keys = list[tuple[NamedEntry, str, list[bytes]]]  # entry, setting with the keys, keys, even of a disabled caller


def list_callers(top: Entry, files: OwnFiles, main: str) -> list[NamedEntry]:
    """Return the entries of all callers, in the configuration `main` and in own files."""
    return list_entries(top, "callers", files, main, f"breakglass keys new NAME --allow {','.join(VERBS)}")


def read_callers(entries: Sequence[NamedEntry], vms: Iterable[str]) -> tuple[Caller, ...]:
    """Return the valid callers, whose entry has no fault and shares no secret with another entry."""
    keys: _Keys = []
    callers = [caller for each in entries if (caller := _caller(each, tuple(vms), keys))]
    _report_shared(keys)
    faulty = {each.name for each in entries if each.entry.is_faulty}
    return tuple(caller for caller in callers if caller.name not in faulty)


def _caller(each: NamedEntry, vms: tuple[str, ...], found: _Keys) -> Caller | None:
    """Return the caller, or None if it has a fault. In both cases, add its keys to `found`."""
    name, entry, _ = each
    if not entry.data and entry.is_faulty:
        return None
    if not is_caller_name(name):
        entry.problem("", "is not a usable name", NAME_HINT)
    kinds = [kind for kind in AUTH_METHODS if entry.has(kind, f"{kind}_file")]
    if len(kinds) > 1:
        entry.problem("", f"has {len(kinds)} auth methods", f"make a separate caller for each of {', '.join(kinds)}")
    kind = kinds[0] if kinds else "secret"
    keys = [key for file, secret in entry.secrets(kind) if (key := _key(each, kind, file, secret))]
    found.append((each, kind, keys))
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


def _key(each: NamedEntry, kind: str, file: str, secret: str) -> bytes | None:
    method = AUTH_METHODS[kind]
    try:
        return KEY_BYTES[method](secret)
    except ValueError as error:
        fix = f"make one: breakglass keys new {each.name} --print{_FLAGS[method]}"
        each.entry.problem(kind, f"{error}{in_file(file)}", fix, "secret-weak")
        return None


def _grafana_bytes(secret: str) -> bytes:
    """Return the key bytes of a Grafana secret, which are the bytes of its text."""
    if len(secret) < _GRAFANA_SECRET_CHARS:
        raise ValueError(f"is shorter than {_GRAFANA_SECRET_CHARS} characters")
    return secret.encode()


def _token_bytes(token: str) -> bytes:
    """Return the bytes of a bearer token; a token must have the generated form, because a password could be guessed."""
    if not TOKEN.fullmatch(token):
        raise ValueError("is not bgt_ and 43 or more of A-Z a-z 0-9 _ -")
    return token.encode()


KEY_BYTES = {SIGNATURE: secret_bytes, GRAFANA: _grafana_bytes, BEARER: _token_bytes}
_FLAGS = {SIGNATURE: "", GRAFANA: " --grafana", BEARER: " --bearer"}


def _report_shared(found: _Keys) -> None:
    """Report callers that share a secret. All of them are disabled, because they can't be told apart."""
    for each, kind, keys in found:
        others = [
            other.name for other, _, theirs in found if other.name != each.name and not set(theirs).isdisjoint(keys)
        ]
        if others:
            fix = f"give each caller its own: breakglass keys new {each.name} --print"
            each.entry.problem(kind, f"is also the secret of {', '.join(others)}", fix, "secret-shared")


# --- The `[metrics]` table: who may read /metrics. An error in it disables only the metrics ---

READER = "[metrics]"  # not a valid caller name, so no caller can have it
_MAKE_ONE = "make one: breakglass keys new prometheus --bearer --print --out FILE; write its token_file line here"


def read_metrics(top: Entry, callers: Iterable[Caller]) -> tuple[Caller, ...]:
    """Return the one caller that may read the metrics, and no verb. Empty without a valid table.

    The secret of another caller is refused, because a monitoring system with it could act as that caller.
    """
    if not top.has("metrics"):
        return ()
    entry = top.get_table("metrics")
    if entry.is_faulty:
        return ()
    tokens = [key for file, token in entry.secrets("token") if (key := _metrics_key(entry, file, token))]
    others = [caller.name for caller in callers if not set(caller.keys).isdisjoint(tokens)]
    if others:
        entry.problem("token", f"is also the secret of {', '.join(others)}", _MAKE_ONE, "secret-shared")
    entry.report_unknown()
    return () if entry.is_faulty else (Caller(READER, tuple(tokens), frozenset(), frozenset(), auth_method=BEARER),)


def _metrics_key(entry: Entry, file: str, token: str) -> bytes | None:
    try:
        return KEY_BYTES[BEARER](token)
    except ValueError as error:
        entry.problem("token", f"{error}{in_file(file)}", _MAKE_ONE, "secret-weak")
        return None
