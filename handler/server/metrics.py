"""GET /metrics: the metrics of this handler. No host is asked.

prometheus_client is loaded only with [metrics], before the handler drops its privileges (cli/starting.py).
"""

import asyncio
import time
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..service import Service

SHARE = 20  # all scrapes together take at most 1/20 of the event loop's time

Text = tuple[bytes, str]  # the text and its content type


class Scrapes:
    """Makes scrapes wait for each other, so that verbs do not wait for scrapes.

    Measured with 8 connections that scrape without a pause (./dev bench): the median of a status is 5 to 8 ms, the same
    as without scrapes. Without the limit, it is 56 to 84 ms.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._free_at = 0.0

    async def take(self, render: Callable[[], Text]) -> Text:
        """Return the result of `render` (3 to 8 ms), as soon as scrapes have used less than their share."""
        async with self._turn:
            await asyncio.sleep(self._free_at - time.monotonic())
            began = time.monotonic()
            try:
                return render()
            finally:
                ended = time.monotonic()
                self._free_at = ended + SHARE * (ended - began)


async def metrics(request: Request) -> Response:
    """Answer with the metrics in the format that the client accepts, or with 404 without [metrics]."""
    if "signed" not in request.scope["state"]:
        raise HTTPException(404)
    from .exposition import render, take_snapshot

    service: Service = request.state.service
    scrapes: Scrapes = request.state.scrapes
    accept = ",".join(request.headers.getlist("accept"))
    text, kind = await scrapes.take(lambda: render(take_snapshot(service, request.state.chatting), accept))
    return Response(text, headers={"content-type": kind})
