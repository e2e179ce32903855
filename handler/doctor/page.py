"""The page at a handler's URL: whether a browser gets all of its files, as they are."""

import http.client
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from .findings import Finding, error, ok, warning
from .http import Reply, exchange, failure, judge_stranger

_FILES_OF_PAGE = re.compile(rb'(?:href|src)="([a-z0-9_-]+\.(?:css|js))"')
_FILES_OF_SCRIPT = re.compile(rb'from "\./([a-z0-9_-]+\.js)"')
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
    names, replies = {"sw.js", *_names(_FILES_OF_PAGE, page.body)}, dict[str, Reply]()
    with ThreadPoolExecutor(4) as pool:
        while names:
            got = zip(names, pool.map(lambda name: exchange(url, "GET", f"/{name}"), names), strict=True)
            replies |= got
            found = {name for name in names for name in _names(_FILES_OF_SCRIPT, replies[name].body)}
            names = found - replies.keys()
    missing = sorted(name for name, reply in replies.items() if not _is_file(name, reply))
    if missing:
        sentence = f"Files of the page are missing at {url}: {', '.join(missing)}; a browser can't sign there."
        fix = f"{REINSTALL}; behind a proxy, pass every path on: breakglass docs proxies"
        yield error(place, "page-files-missing", sentence, fix)
    elif _POLICY not in page.headers.get("content-security-policy", ""):
        sentence = "The proxy removes or replaces the page's Content-Security-Policy."
        fix = "nginx: remove proxy_hide_header and add_header for Content-Security-Policy"
        yield warning(place, "page-policy", sentence, fix)
    else:
        yield ok(place, "page", f"The page and its {len(replies)} files are there.")


def _names(pattern: re.Pattern[bytes], text: bytes) -> set[str]:
    return {name.decode() for name in pattern.findall(text)}


def _is_file(name: str, reply: Reply) -> bool:
    kind = "css" if name.endswith(".css") else "javascript"
    return reply.status == 200 and kind in reply.headers.get("content-type", "") and reply.body != b""
