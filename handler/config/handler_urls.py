"""URLs of handlers, in a normal form in which two of them can be compared. Pure."""

import re
from ipaddress import IPv6Address
from urllib.parse import quote, urlencode

_URL = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[^/?#@:\[\]\\]+))"
    r"(?::(?P<port>[0-9]{1,5}))?(?P<path>/[\x21-\x7e]*)?",
    re.IGNORECASE,
)
# IDNA makes "/" of a wide slash and "." of a one dot leader, and leaves "%2f".
_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\]")
_MOST_CHARS = 2048
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LOOPBACK = re.compile(r"https?://(?:(?:[^/]+\.)?localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]+)?/.*")


def normal_url(text: str) -> str | None:
    """Return the normal form of an http or https URL; None for another text, or with a user, a query or a fragment.

    Scheme and host are in lower case, a port that is the scheme's own is left out, and the path, which is empty or the
    prefix at which a proxy has the handler, ends with one slash.
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
    except ValueError:  # also a name that DNS could not have
        return None
    if not _HOST.fullmatch(host):
        return None
    shown_port = "" if port == _DEFAULT_PORTS[scheme] else f":{port}"
    return f"{scheme}://{host}{shown_port}{path.rstrip('/')}/"


def is_loopback(url: str) -> bool:
    """Tell whether a URL in normal form leads to the machine on which it is used."""
    return _LOOPBACK.fullmatch(url) is not None


def page_link(url: str, vm: str, job: str = "") -> str:
    """Return the address at which a handler's page opens a VM, and one of its jobs. `url` is in normal form."""
    chosen = {"vm": vm, "job": job} if job else {"vm": vm}
    return f"{url}#" + urlencode(chosen, quote_via=quote, safe="", errors="replace")
