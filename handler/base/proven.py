"""When a host was last proven, as its host agent says: by a drill, or by a doctor that found no error. Pure."""

import re
from collections.abc import Mapping

Proven = Mapping[str, str]

_SHAPES = {
    "at": re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII),
    "by": re.compile(r"[A-Za-z0-9@._-]{1,64}", re.ASCII),
    "how": re.compile("drill|doctor"),
}


def read_proven(value: object) -> Proven | None:
    """Return `at`, `by` and `how` of what a host agent sent; None if it was never proven, or that is malformed."""
    if not isinstance(value, Mapping):
        return None
    found = {name: text for name in _SHAPES if isinstance(text := value.get(name), str)}
    return found if all(shape.fullmatch(found.get(name, "")) for name, shape in _SHAPES.items()) else None


def newer_proven(known: Proven | None, value: object) -> Proven | None:
    """Return what is newer: what is known, or what a host agent sent. The answer of an old job is older."""
    sent = read_proven(value)
    return max(filter(None, (known, sent)), key=lambda proven: proven["at"], default=None)


def describe_openly(proven: Proven | None) -> Proven | None:
    """Return when and how, without the caller's name, for an answer that needs no authentication."""
    return {name: proven[name] for name in ("at", "how")} if proven else None
