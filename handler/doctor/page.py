"""The page at a handler's URL: whether a browser gets all of its files, as they are."""

import base64
import hashlib
import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from ..findings import Finding, error, ok, warning
from ..web.page_list import PAGE_LIST
from .http import Reply, exchange, failure, judge_stranger

_KINDS = {"css": "css", "js": "javascript", "json": "json", "svg": "svg", "webmanifest": "json"}
_POLICY = "script-src 'self'"
REINSTALL = "install the package again (breakglass docs install), then systemctl restart breakglass"


def look_at_page(place: str, url: str) -> Iterator[Finding]:
    """Yield what is wrong with the page, or that nothing is."""
    try:
        page = exchange(url, "GET", "/")
        if page.status != 200 or b"<title>Breakglass</title>" not in page.body:
            yield _judge_missing(place, url, page)
            return
        yield from _look_at_files(place, url, page)
    except (OSError, http.client.HTTPException) as problem:
        fix = "run doctor again; if this stays, read the proxy's error log"
        yield error(place, "page-missing", f"The page at {url} can't be read: {failure(problem)}.", fix)


def _judge_missing(place: str, url: str, page: Reply) -> Finding:
    if page.error or page.status == 200:
        sentence = f"The handler answers at {url}, but there is no page (HTTP {page.status})."
        return error(place, "page-missing", sentence, REINSTALL)
    return judge_stranger(place, url, "/", page)


def _look_at_files(place: str, url: str, page: Reply) -> Iterator[Finding]:
    page_list = exchange(url, "GET", f"/{PAGE_LIST}")
    digests = page_list.json.get("files")
    listed = digests if isinstance(digests, dict) else {}
    names = sorted({"sw.js", *listed} - {"./"})
    with ThreadPoolExecutor(4) as pool:
        replies = dict(zip(names, pool.map(lambda name: exchange(url, "GET", f"/{name}"), names), strict=True))
    missing = [name for name, reply in {PAGE_LIST: page_list, **replies}.items() if not _is_file(name, reply)]
    altered = [name for name, digest in listed.items() if _digest({"./": page, **replies}[name]) != digest]
    if missing:
        sentence = f"Files of the page are missing at {url}: {', '.join(missing)}; a browser can't sign there."
        fix = f"{REINSTALL}; behind a proxy, pass every path on: breakglass docs proxies"
        yield error(place, "page-files-missing", sentence, fix)
    elif altered:
        names_altered = ", ".join(altered).replace("./", "the page itself")
        sentence = (
            f"The proxy changes files of the page at {url}: {names_altered}; no device can store it for an outage."
        )
        fix = "in the proxy, switch off what changes HTML, scripts or styles (minifying, what it adds) for this name"
        yield warning(place, "page-altered", sentence, fix)
    elif _POLICY not in page.headers.get("content-security-policy", ""):
        sentence = "The proxy removes or replaces the page's Content-Security-Policy."
        fix = "nginx: remove proxy_hide_header and add_header for Content-Security-Policy"
        yield warning(place, "page-policy", sentence, fix)
    else:
        yield ok(place, "page", f"The page and its {len(replies)} files are there.")


def _is_file(name: str, reply: Reply) -> bool:
    kind = _KINDS.get(name.rpartition(".")[2], "")
    return reply.status == 200 and kind in reply.headers.get("content-type", "") and reply.body != b""


def _digest(reply: Reply) -> str:
    return base64.b64encode(hashlib.sha256(reply.body).digest()).decode()
