"""Checks the handler at its URL, from its name and port to its health and its page."""

import asyncio
import base64
import hashlib
import http.client
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ..base.budget import HOLD_SECONDS, LOOK_SECONDS
from ..base.findings import ERROR, Finding
from ..base.manager import manager
from ..base.threads import run_in_thread
from ..client import Signer
from ..config.server import normal_url
from ..web.page import PAGE_LIST
from .health import judge_health, read_health, vm_names
from .http import Broken, Reply, exchange, failure, judge_stranger
from .proxy import is_direct, look_at_lines, look_at_patience, look_at_requests
from .signed import Echo, look_at_key, look_at_vms
from .tls import look_at_port
from .visit import HANDLER, Visit, about

found_ok, found_warning, found_error = about(HANDLER)

# --- The page at a handler's URL: whether a browser gets all of its files unchanged ---

_KINDS = {"css": "css", "js": "javascript", "json": "json", "svg": "svg", "webmanifest": "json"}
_POLICY = "script-src 'self'"


def reinstall() -> str:
    """Return how to repair an incomplete installation."""
    return f"install the package again (breakglass docs install), then run {manager().restart}"


def look_at_page(url: str) -> Iterator[Finding]:
    """Yield the problems of the page, or a finding that it is in order."""
    try:
        page = exchange(url, "GET", "/")
        if page.status != 200 or b"<title>Breakglass</title>" not in page.body:
            yield _judge_missing(url, page)
            return
        yield from _look_at_files(url, page)
    except (OSError, http.client.HTTPException) as problem:
        fix = "run doctor again; if the problem stays, read the proxy's error log"
        yield found_error("page-missing", f"The page at {url} can't be read: {failure(problem)}.", fix)


def _judge_missing(url: str, page: Reply) -> Finding:
    if page.error or page.status == 200:
        sentence = f"The handler answers at {url}, but there is no page (HTTP {page.status})."
        return found_error("page-missing", sentence, reinstall())
    return judge_stranger(url, "/", page)


def _look_at_files(url: str, page: Reply) -> Iterator[Finding]:
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
        fix = f"{reinstall()}; behind a proxy, pass every path on: breakglass docs proxies"
        yield found_error("page-files-missing", sentence, fix)
    elif altered:
        names_altered = ", ".join(altered).replace("./", "the page itself")
        sentence = (
            f"The proxy changes files of the page at {url}: {names_altered}; no device can store it for an outage."
        )
        fix = "in the proxy, disable everything that changes HTML, scripts or styles for this name, such as minifying"
        yield found_warning("page-altered", sentence, fix)
    elif _POLICY not in page.headers.get("content-security-policy", ""):
        sentence = "The proxy removes or replaces the page's Content-Security-Policy."
        fix = "nginx: remove proxy_hide_header and add_header for Content-Security-Policy"
        yield found_warning("page-policy", sentence, fix)
    else:
        yield found_ok("page", f"The page and its {len(replies)} files can be read.")


def _is_file(name: str, reply: Reply) -> bool:
    kind = _KINDS.get(name.rpartition(".")[2], "")
    return reply.status == 200 and kind in reply.headers.get("content-type", "") and reply.body != b""


def _digest(reply: Reply) -> str:
    return base64.b64encode(hashlib.sha256(reply.body).digest()).decode()


# --- Check the handler as callers reach it, each URL from the name to a signed request and its answer

_MOST_URLS = 4


async def look_at_handler(visit: Visit, found: list[Finding]) -> None:
    """Check all URLs in parallel, and add the findings of each."""
    until = time.monotonic() + LOOK_SECONDS
    looks = [_Look(visit, url, until) for url in _urls(visit)]
    if not looks:
        sentence = "No URL of a handler is known, so none was checked."
        fix = "export BREAKGLASS_URL=https://rescue.example.org/, as callers use it"
        found.append(found_warning("no-url", sentence, fix))
    try:
        await asyncio.gather(*(run_in_thread(look.run, math.inf) for look in looks))
    finally:
        for look in looks:
            found += look.found
    found += _compare([look for look in looks if look.health])


def _urls(visit: Visit) -> list[str]:
    """Return the URL of this run, and the other URLs in [server] url."""
    others = visit.config.urls if visit.config else ()
    known = {normal_url(url): url for url in (*others, visit.url) if url}
    first = [visit.url] if visit.url else []
    return [*first, *(url for url in known.values() if url not in first)][:_MOST_URLS]


class _Look:
    """The check of one URL, with its findings so far."""

    def __init__(self, visit: Visit, url: str, until: float) -> None:
        self._visit, self.url, self._until = visit, url, until
        self._signer = Signer(url, visit.signer.key) if visit.signer else None
        self.health: Mapping[str, object] = {}
        self.echo: Echo | None = None
        self.found: list[Finding] = []

    def run(self) -> None:
        """Check the URL, and add to `found`. Sets `health` and `echo` if the handler answered."""
        found = self.found
        try:
            found.extend(self._steps())  # extend() keeps the findings that _steps() yields before an exception
            seconds = min(HOLD_SECONDS, int(self._until - time.monotonic()))
            is_well = self.echo and not any(finding.level == ERROR for finding in found)
            if self._signer and is_well and seconds > 0 and not is_direct(self.url):
                found.append(look_at_patience(self._signer, seconds))
        except Broken as end:
            found.append(end.finding)
        except (OSError, http.client.HTTPException) as problem:
            sentence = f"A request to {self.url} has no answer: {failure(problem)}."
            fix = f"run doctor again; if the problem stays, read the proxy's error log and {manager().log}"
            found.append(found_error("no-answer", sentence, fix))

    def _steps(self) -> Iterator[Finding]:
        yield from look_at_port(self.url)
        reply = read_health(self.url)
        self.health = reply.json
        yield from judge_health(self._visit, self.url, reply)
        yield from look_at_page(self.url)
        yield from look_at_requests(self._visit, self.url, str(reply.json.get("chat")))
        if self._signer is None:
            sentence = "No signing key is known, so no signed request was tried."
            fix = "export BREAKGLASS_SECRET_FILE=NAME.signing-key"
            yield found_warning("no-key", sentence, fix)
            return
        self.echo = yield from look_at_key(self._visit, self._signer)
        names = [name for name in vm_names(reply) if self._visit.vm in ("", name)]
        yield from look_at_vms(self._signer, names)
        yield look_at_lines(self._signer)


def _compare(looks: Sequence[_Look]) -> Iterator[Finding]:
    """Yield the differences between URLs that should lead to one handler or to replicas."""
    urls = " and ".join(look.url for look in looks)
    if len({look.echo["config"] for look in looks if look.echo}) > 1:
        sentence = f"The handlers at {urls} have different configurations."
        fix = f"copy the configuration and its files from one to the other; then run {manager().reload} on both"
        yield found_warning("configs-differ", sentence, fix)
