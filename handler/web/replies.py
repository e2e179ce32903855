"""The responses of the routes: an error object, or a stream of lines."""

import json
from collections.abc import AsyncIterator, Mapping

from starlette.responses import Response, StreamingResponse

from ..errors import BreakglassError, TooLarge, TooSlow, Unauthorized

NDJSON = "application/x-ndjson"


def error_reply(error: BreakglassError, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response for an error. All failed authentications get the same bytes.

    A connection whose body was not awaited is closed.
    """
    answer = Unauthorized() if isinstance(error, Unauthorized) else error
    closing = {"connection": "close"} if isinstance(error, TooLarge | TooSlow) else {}
    all_headers = {"content-type": "application/json", **closing, **(headers or {})}
    return Response(_line(answer.as_json()), error.status, all_headers)


def stream_reply(messages: AsyncIterator[Mapping[str, object]]) -> Response:
    """Return a stream of JSON objects, one a line."""
    return StreamingResponse(_lines(messages), media_type=NDJSON)


async def _lines(messages: AsyncIterator[Mapping[str, object]]) -> AsyncIterator[bytes]:
    async for message in messages:
        yield _line(message)


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
