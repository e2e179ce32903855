"""GET /metrics: what monitoring may know of this handler. No host is asked.

prometheus_client is loaded only with [metrics], before the handler gives up its rights: see cli/starting.py.
"""

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..service import Service

SHARE = 20  # scrapes take at most one part in so many of the event loop's time, however many come


class Scrapes:
    """Has scrapes wait for one another, so that verbs do not wait for them."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._free_at = 0.0

    async def render(self, service: Service, accept: str) -> tuple[bytes, str]:
        """Return the metrics as they are now and their content type, as soon as scrapes have had less than their share.

        Making the text takes 3 to 8 ms of the event loop.
        """
        from .exposition import render, take_snapshot

        async with self._turn:
            await asyncio.sleep(self._free_at - time.monotonic())
            began = time.monotonic()
            try:
                return render(take_snapshot(service), accept)
            finally:
                ended = time.monotonic()
                self._free_at = ended + (SHARE - 1) * (ended - began)


async def metrics(request: Request) -> Response:
    """Answer with the metrics, in the form that the client accepts; without [metrics] there is no such address."""
    if "signed" not in request.scope["state"]:
        raise HTTPException(404)
    scrapes: Scrapes = request.state.scrapes
    text, kind = await scrapes.render(request.state.service, ",".join(request.headers.getlist("accept")))
    return Response(text, headers={"content-type": kind})
