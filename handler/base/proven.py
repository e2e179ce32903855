"""When a host was last proven, by a drill or a doctor without errors, as its host agent reports it. Pure."""

import re
from collections.abc import Mapping

Proven = Mapping[str, str]

_SHAPES = {
    "at": re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII),
    "by": re.compile(r"[A-Za-z0-9@._-]{1,64}", re.ASCII),
    "how": re.compile("drill|doctor"),
}


def read_proven(value: object) -> Proven | None:
    """Return `at`, `by` and `how` from a host agent's record; None if there is none, or it is malformed."""
    if not isinstance(value, Mapping):
        return None
    found = {name: text for name in _SHAPES if isinstance(text := value.get(name), str)}
    return found if all(shape.fullmatch(found.get(name, "")) for name, shape in _SHAPES.items()) else None


def newer_proven(known: Proven | None, value: object) -> Proven | None:
    """Return the newer of two records, the known one and the received one, because old jobs send old records."""
    sent = read_proven(value)
    return max(filter(None, (known, sent)), key=lambda proven: proven["at"], default=None)


def describe_openly(proven: Proven | None) -> Proven | None:
    """Return when and how the host was proven, without the caller's name, for unauthenticated answers."""
    return {name: proven[name] for name in ("at", "how")} if proven else None
