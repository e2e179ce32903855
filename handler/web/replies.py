"""What is said in HTTP: an answer object, an error object, a stream of lines. Nothing outside the routes does."""

import json
from collections.abc import AsyncIterator, Mapping

from starlette.responses import JSONResponse, Response, StreamingResponse

from ..errors import BreakglassError

NDJSON = "application/x-ndjson"


def error_reply(error: BreakglassError) -> Response:
    """Return the answer to a request that never became what it asked for."""
    return JSONResponse(error.as_json(), error.status)


def stream_reply(messages: AsyncIterator[Mapping[str, object]]) -> Response:
    """Return a stream of JSON objects, one a line."""
    return StreamingResponse(_lines(messages), media_type=NDJSON)


async def _lines(messages: AsyncIterator[Mapping[str, object]]) -> AsyncIterator[bytes]:
    async for message in messages:
        yield json.dumps(message, separators=(",", ":")).encode() + b"\n"
