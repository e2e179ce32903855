"""The `[server]` table: the handler's own user, the proxies in front of it, and its URLs. Pure."""

import ipaddress
import re
from typing import NamedTuple

from .handler_urls import normal_url
from .reader import Entry, quoted

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ServerSettings(NamedTuple):
    """The account that the handler becomes if root starts it, its proxies, and its URLs.

    `user` is empty without an account. `urls` are in normal form.
    """

    user: str = ""
    proxies: tuple[Network, ...] = ()
    urls: tuple[str, ...] = ()


def read_server(top: Entry) -> ServerSettings:
    """Return the settings of `[server]`; if the table has a fault, only the valid URLs."""
    entry = top.get_table("server")
    user = entry.get_str("user")
    if entry.has("user") and not _USER.fullmatch(user):
        entry.problem("user", f"is not a user name: {quoted(user)}", "name the handler's own account")
    proxies = tuple(network for text in entry.get_strs("proxies") if (network := _network(entry, text)))
    urls = tuple(url for text in entry.get_strs("url") if (url := _url(entry, text)))
    entry.report_unknown()
    return ServerSettings(urls=urls) if entry.is_faulty else ServerSettings(user, proxies, urls)


def _network(entry: Entry, text: str) -> Network | None:
    try:
        network = ipaddress.ip_network(text)
        if network.prefixlen:
            return network
        hint = "list the proxies alone: any other client can write any address into X-Forwarded-For"
        entry.problem("proxies", f"has every address: {quoted(text)}", hint)
    except ValueError as error:
        entry.problem("proxies", f"{quoted(text)}: {error}", 'write an address or a network, like "192.0.2.0/24"')
    return None


def _url(entry: Entry, text: str) -> str | None:
    url = normal_url(text)
    if url is None:
        hint = 'write it as browsers show it, without a query: url = "https://rescue.example.org/"'
        entry.problem("url", f"is not the address of a handler: {quoted(text)}", hint)
    return url
