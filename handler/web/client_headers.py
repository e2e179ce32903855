"""Reads what a request's headers say about its client: preferences and address. Pure."""

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from ..config.server import Network

# --- What a client prefers: how long it waits for an answer (RFC 7240), and whether it takes gzip (RFC 9110) ---

MOST_WAIT_SECONDS = 90  # many proxies cut at 100 s

_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*+"'
_PAIR = rf"({_NAME})(?:[ \t]*=[ \t]*({_NAME}|{_QUOTED}))?"
_PREFERENCE = re.compile(rf"{_PAIR}(?:[ \t]*;(?:[ \t]*{_PAIR})?)*+")
# One element between commas. A quoted text may itself contain commas.
_ELEMENT = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*+(?:"|\\?$))++')
_CODING = re.compile(rf"({_NAME})(?:[ \t]*;[ \t]*q=(0(?:\.[0-9]{{0,3}})?|1(?:\.0{{0,3}})?))?", re.IGNORECASE)


def preferred_wait(values: Sequence[str]) -> int | None:
    """Return the seconds of `wait` in `Prefer`, at most MOST_WAIT_SECONDS, or None if there is no valid one.

    Only the first `wait` counts, as RFC 7240 says. Malformed elements are ignored.
    """
    for element in _elements(values):
        found = _PREFERENCE.fullmatch(element)
        if found and found[1].lower() == "wait":
            digits = re.fullmatch(r'("?)([0-9]+)\1', found[2] or "")
            return min(MOST_WAIT_SECONDS, int(digits[2].lstrip("0")[:3] or "0")) if digits else None
    return None


def accepts_gzip(values: Sequence[str]) -> bool:
    """Return whether the values of `Accept-Encoding` allow gzip and do not prefer uncompressed bytes."""
    weights: dict[str, float] = {}
    for element in _elements(values):
        found = _CODING.fullmatch(element)
        if found:
            weights[found[1].lower().removeprefix("x-")] = float(found[2] or 1)
    gzip = weights.get("gzip", weights.get("*", 0.0))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def _elements(values: Sequence[str]) -> list[str]:
    """Return the elements of a header's list. Several lines of the header form one list."""
    return [element.strip(" \t") for element in _ELEMENT.findall(",".join(values))]


# --- The address that a request came from, for the log. It gives no rights, and nothing else uses it ---

MOST_HOPS = 20  # of the addresses in X-Forwarded-For, the last ones that are read

_Scope = Mapping[str, Any]  # of ASGI
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def client_address(scope: _Scope, proxies: Iterable[Network]) -> tuple[str, str]:
    """Return the client's address, and the address of its proxy (an empty text without a proxy).

    A peer that is not a configured proxy is the client, whatever its headers say. A proxy's header is read from the
    right, because each proxy adds an address there. The first address that does not belong to a proxy is the client.
    The client's address is an empty text if there is none, or if the proxy wrote an invalid address.
    """
    peer = _parse(scope["client"][0]) if scope.get("client") else None
    if peer is None or not _is_one_of(peer, proxies):
        return str(peer or ""), ""
    for text in islice(reversed(_forwarded_for(scope).split(",")), MOST_HOPS):
        address = _parse(text)
        if address is None:
            break
        if not _is_one_of(address, proxies):
            return str(address), str(peer)
    return "", str(peer)


def _forwarded_for(scope: _Scope) -> str:
    return ",".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"x-forwarded-for")


def _parse(text: str) -> _Address | None:
    """Return an address. An IPv4-mapped IPv6 address is returned as IPv4."""
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _is_one_of(address: _Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
