"""The address that a request came from, for the log. It gives no rights, and nothing else uses it."""

import ipaddress
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from ..config.server import Network

MOST_HOPS = 20  # of X-Forwarded-For that are looked at, from the right

_Scope = Mapping[str, Any]  # of ASGI
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def client_address(scope: _Scope, proxies: Iterable[Network]) -> tuple[str, str]:
    """Return the client's address, and that of the proxy in front of it, an empty text without one.

    A peer that is none of the proxies is the client, whatever its headers say. What a proxy says counts from the right,
    because each one adds an address there: the first that is no proxy's is the client. It is an empty text if there is
    none, or if the proxy wrote something that is no address.
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
    """Return an address, an IPv4 address in place of the IPv6 one that stands for it."""
    try:
        address = ipaddress.ip_address(text.strip().partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _is_one_of(address: _Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
