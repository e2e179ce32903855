"""The `[metrics]` table: who may read /metrics. An error in it disables the metrics, and nothing else. Pure."""

from collections.abc import Iterable

from ..auth.signing import BEARER, Caller
from .callers import KEY_BYTES
from .reader import Entry, in_file

READER = "[metrics]"  # no caller can have this name
_MAKE_ONE = "make one: breakglass keys new prometheus --bearer --print --out FILE; write its token_file line here"


def read_metrics(top: Entry, callers: Iterable[Caller]) -> tuple[Caller, ...]:
    """Return who may read the metrics: one caller, which may run no verb; nothing without the table or with a fault.

    A caller's secret is refused: a monitoring system that has it could act as that caller.
    """
    if not top.has("metrics"):
        return ()
    entry = top.get_table("metrics")
    if entry.is_faulty:
        return ()
    tokens = [key for file, token in entry.secrets("token") if (key := _key(entry, file, token))]
    others = [caller.name for caller in callers if not set(caller.keys).isdisjoint(tokens)]
    if others:
        entry.problem("token", f"is also the secret of {', '.join(others)}", _MAKE_ONE, "secret-shared")
    entry.report_unknown()
    return () if entry.is_faulty else (Caller(READER, tuple(tokens), frozenset(), frozenset(), auth_method=BEARER),)


def _key(entry: Entry, file: str, token: str) -> bytes | None:
    try:
        return KEY_BYTES[BEARER](token)
    except ValueError as error:
        entry.problem("token", f"{error}{in_file(file)}", _MAKE_ONE, "secret-weak")
        return None
