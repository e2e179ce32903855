"""POST /pair: hand a sealed signing key to a device, once. Needs no authentication except the id.

Every failure gets the same 404 after the same time: an unknown id, a second request, a late request, a malformed body
or a hung directory. Only the log tells them apart. Verbs wait for nothing here.
"""

import asyncio
import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..base import audit
from ..base.errors import BreakglassError, NotFound
from ..base.threads import DaemonThreads
from ..config.pairing import PAIR_UNKNOWN, PAIRED, Fetched, fetch_once, is_pairing_id, tidy
from ..service import Service
from .bodies import strict_json
from .client_headers import client_address
from .gate import ClientGone, read_body
from .replies import error_reply
from .strangers import RefusalQueue

MOST_BYTES = 128
SECONDS = 2.0  # for reading the directory, including the wait for a free thread
THREADS = 4
REFUSED_AFTER = 0.1  # seconds; a rename takes less, so the delay does not reveal whether a file was renamed
TIDY_SECONDS = 60.0

_NOT_FOUND = NotFound(
    "there is no key to fetch: the pairing link is unknown, was used before, or is too old",
    "make a new link: breakglass keys rotate NAME --pair",
)


class Desk:
    """Fetches the sealed keys of sessions.dir in a few threads, because the directory may hang."""

    def __init__(self) -> None:
        self.refusals = RefusalQueue()
        self._threads = DaemonThreads("pairing", THREADS)
        self._places = asyncio.Semaphore(THREADS)  # a call keeps its place until the call ends, even after its timeout
        self._tidied = 0.0

    async def fetch(self, directory: str, pairing_id: str) -> Fetched:
        """Return the result of a request, `pair-unknown` if the directory does not answer in time."""
        deadline = time.monotonic() + SECONDS
        try:
            async with asyncio.timeout(SECONDS):
                await self._places.acquire()
                arguments = (asyncio.get_running_loop(), directory, pairing_id, deadline)
                found = await self._threads.run(self._fetch, *arguments, seconds=SECONDS)
        except TimeoutError:
            return Fetched(PAIR_UNKNOWN, why="sessions.dir does not answer")
        if time.monotonic() - self._tidied > TIDY_SECONDS:
            self._tidied = time.monotonic()
            self._threads.run_later(lambda: tidy(directory, time.time()))
        return found

    def _fetch(self, loop: asyncio.AbstractEventLoop, directory: str, pairing_id: str, deadline: float) -> Fetched:
        try:
            return fetch_once(directory, pairing_id, deadline)
        finally:
            try:
                loop.call_soon_threadsafe(self._places.release)
            except RuntimeError:  # the handler has stopped
                pass


async def pair(request: Request) -> Response:
    """Answer 200 with the sealed key, or 404."""
    service: Service = request.state.service
    desk: Desk = request.state.desk
    began = time.monotonic()
    # no path is noted, because /metrics does not count strangers
    audit.begin(*client_address(request.scope, service.config.proxies))
    try:
        body = await read_body(request.scope, request.receive, MOST_BYTES)
    except BreakglassError as error:
        found = Fetched(PAIR_UNKNOWN, why=error.code)
    except ClientGone:
        audit.request(began, "client-gone")
        return Response()
    else:
        pairing_id = _parse_id(body)
        malformed = Fetched(PAIR_UNKNOWN, why="malformed")
        found = await desk.fetch(service.config.sessions_dir, pairing_id) if pairing_id else malformed
    if found.outcome != PAIRED:
        await asyncio.sleep(began + REFUSED_AFTER - time.monotonic())
        await desk.refusals.wait()
    audit.request(began, found.outcome, found.caller, why=found.why)
    return JSONResponse({"sealed": found.sealed}) if found.outcome == PAIRED else error_reply(_NOT_FOUND)


def _parse_id(body: bytes) -> str:
    """Return the id in a body, or an empty text if the body is malformed."""
    try:
        fields = strict_json(body)
    except BreakglassError:
        return ""
    pairing_id = fields.get("id")
    return pairing_id if isinstance(pairing_id, str) and len(fields) == 1 and is_pairing_id(pairing_id) else ""
