"""What a client prefers: how long it waits for an answer (RFC 7240), and whether it takes gzip (RFC 9110). Pure."""

import re
from collections.abc import Sequence

MOST_WAIT_SECONDS = 90  # many proxies cut at 100 s

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*+"'
_PAIR = rf"({_NAME})(?:[ \t]*=[ \t]*({_NAME}|{_QUOTED}))?"
_PREFERENCE = re.compile(rf"{_PAIR}(?:[ \t]*;(?:[ \t]*{_PAIR})?)*+")
_ELEMENT = re.compile(
    r'(?:[^",]|"(?:[^"\\]|\\.)*+(?:"|\\?$))++'
)  # what lies between commas, which a quoted text may have
_CODING = re.compile(rf"({_NAME})(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{{0,3}})?|1(?:\.0{{0,3}})?))?", re.IGNORECASE)


def preferred_wait(values: Sequence[str]) -> int | None:
    """Return the seconds of `wait` in the values of `Prefer`, at most MOST_WAIT_SECONDS; None without a usable one.

    Only the first `wait` counts, as RFC 7240 says. What is malformed is ignored.
    """
    for element in _elements(values):
        found = _PREFERENCE.fullmatch(element)
        if found and found[1].lower() == "wait":
            digits = re.fullmatch(r'("?)([0-9]+)\1', found[2] or "")
            return min(MOST_WAIT_SECONDS, int(digits[2].lstrip("0")[:3] or "0")) if digits else None
    return None


def accepts_gzip(values: Sequence[str]) -> bool:
    """Tell whether the values of `Accept-Encoding` allow gzip and do not prefer the plain bytes."""
    weights: dict[str, float] = {}
    for element in _elements(values):
        found = _CODING.fullmatch(element)
        if found:
            weights[found[1].lower().removeprefix("x-")] = float(found[2] or 1)
    gzip = weights.get("gzip", weights.get("*", 0.0))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _elements(values: Sequence[str]) -> list[str]:
    """Return the elements of a header's list: several lines are one list."""
    return [element.strip(" \t") for element in _ELEMENT.findall(",".join(values))]
