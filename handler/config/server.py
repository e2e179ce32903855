"""The `[server]` table: the handler's own user, and the proxies in front of it. Pure."""

import ipaddress
import re
from typing import NamedTuple

from .reader import Entry, quoted

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ServerSettings(NamedTuple):
    """The account that the handler becomes when it is started as root, or an empty text; and its proxies."""

    user: str = ""
    proxies: tuple[Network, ...] = ()


def read_server(top: Entry) -> ServerSettings:
    """Return what `[server]` says; nothing of it if there is a fault in it."""
    entry = top.get_table("server")
    user = entry.get_str("user")
    if entry.has("user") and not _USER.fullmatch(user):
        entry.problem("user", f"is not a user name: {quoted(user)}", "name the handler's own account")
    proxies = tuple(network for text in entry.get_strs("proxies") if (network := _network(entry, text)))
    entry.report_unknown()
    return ServerSettings() if entry.is_faulty else ServerSettings(user, proxies)


def _network(entry: Entry, text: str) -> Network | None:
    try:
        network = ipaddress.ip_network(text)
        if network.prefixlen:
            return network
        hint = "name the proxies; of a request that came from any other address, this header says nothing"
        entry.problem("proxies", f"has every address: {quoted(text)}", hint)
    except ValueError as error:
        entry.problem("proxies", f"{quoted(text)}: {error}", 'write an address or a network, like "192.0.2.0/24"')
    return None
