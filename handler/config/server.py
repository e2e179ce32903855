"""The `[server]` table: the proxies in front of the handler, and its URLs. Pure."""

import ipaddress
import re
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import quote, urlencode

from .reader import Entry, quoted

# --- URLs of handlers, in a normal form, so that two of them can be compared ---

_URL = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[^/?#@:\[\]\\]+))"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/[\x21-\x7e]*)?",
    re.IGNORECASE,
)
# IDNA turns a fullwidth slash into "/" and a one dot leader into ".", and keeps "%2f", so the result is checked.
_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\]")
_MOST_CHARS = 2048
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LOOPBACK = re.compile(r"https?://(?:(?:[^/]+\.)?localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]+)?/.*")


def normal_url(text: str) -> str | None:
    """Return the normal form of an http or https URL. None for other texts, or with user, query or fragment.

    Scheme and host are in lower case, and the scheme's default port is left out. The path ends with one slash. It is
    only that slash, or the prefix under which a proxy serves the handler.
    """
    match = _URL.fullmatch(text) if len(text) <= _MOST_CHARS else None
    if match is None or not text.isprintable() or " " in text:
        return None
    scheme, path = match["scheme"].lower(), match["path"] or ""
    port = int(match["port"] or _DEFAULT_PORTS[scheme])
    if port not in range(1, 65536) or any(sign in path for sign in "?#\\"):
        return None
    try:
        host = f"[{IPv6Address(match['ipv6'])}]" if match["ipv6"] else match["name"].encode("idna").decode().lower()
    except ValueError:  # raised too for a name that can't exist in DNS
        return None
    if not _HOST.fullmatch(host):
        return None
    shown_port = "" if port == _DEFAULT_PORTS[scheme] else f":{port}"
    return f"{scheme}://{host}{shown_port}{path.rstrip('/')}/"


def is_loopback(url: str) -> bool:
    """Return whether a URL in normal form has a loopback address."""
    return _LOOPBACK.fullmatch(url) is not None


def page_link(url: str, vm: str, job: str = "") -> str:
    """Return the page's address for a VM and, if given, one of its jobs. `url` is in normal form."""
    chosen = {"vm": vm, "job": job} if job else {"vm": vm}
    return f"{url}#" + urlencode(chosen, quote_via=quote, safe="", errors="replace")


# --- The `[server]` table ---

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ServerSettings(NamedTuple):
    """The handler's proxies, and its URLs in normal form."""

    proxies: tuple[Network, ...] = ()
    urls: tuple[str, ...] = ()


def read_server(top: Entry) -> ServerSettings:
    """Return the settings of `[server]`. If the table has a fault, return only the valid URLs."""
    entry = top.get_table("server")
    proxies = tuple(network for text in entry.get_strs("proxies") if (network := _network(entry, text)))
    urls = tuple(url for text in entry.get_strs("url") if (url := _url(entry, text)))
    entry.report_unknown()
    return ServerSettings(urls=urls) if entry.is_faulty else ServerSettings(proxies, urls)


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
