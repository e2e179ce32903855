"""The responses of the routes: an error object, or a stream of lines."""

import json
from collections.abc import AsyncIterator, Mapping

from starlette.responses import JSONResponse, Response, StreamingResponse

from ..errors import BreakglassError

NDJSON = "application/x-ndjson"


def error_reply(error: BreakglassError) -> Response:
    """Return the response for an error."""
    return JSONResponse(error.as_json(), error.status)


def stream_reply(messages: AsyncIterator[Mapping[str, object]]) -> Response:
    """Return a stream of JSON objects, one a line."""
    return StreamingResponse(_lines(messages), media_type=NDJSON)


async def _lines(messages: AsyncIterator[Mapping[str, object]]) -> AsyncIterator[bytes]:
    async for message in messages:
        yield json.dumps(message, separators=(",", ":")).encode() + b"\n"
