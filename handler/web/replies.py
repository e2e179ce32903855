"""The responses of the routes: an error object, or a stream of lines."""

import json
from collections.abc import AsyncIterator, Mapping

from starlette.responses import Response, StreamingResponse

from ..errors import BreakglassError, TooLarge, TooSlow, Unauthorized

NDJSON = "application/x-ndjson"
PLAIN = "identity"  # the content-encoding with which a route says that its answer is not to be compressed
MOST_COMPRESSED = 1024 * 1024  # of an answer; a longer one has a large picture, which is compressed already


def error_reply(error: BreakglassError, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response for an error. All failed authentications get the same bytes.

    A connection whose body was not awaited is closed.
    """
    answer = Unauthorized() if isinstance(error, Unauthorized) else error
    closing = {"connection": "close"} if isinstance(error, TooLarge | TooSlow) else {}
    all_headers = {"content-type": "application/json", **closing, **(headers or {})}
    return Response(encode_line(answer.as_json()), error.status, all_headers)


def encoded_reply(body: bytes, status: int, *, is_shared: bool = False) -> Response:
    """Return the response with an object that is JSON already. One that many requests share is not compressed."""
    headers = {"content-encoding": PLAIN} if is_shared or len(body) > MOST_COMPRESSED else None
    return Response(body, status, headers, "application/json")


def stream_reply(messages: AsyncIterator[Mapping[str, object] | bytes]) -> Response:
    """Return a stream of JSON objects, one a line. Bytes are such a line."""
    return StreamingResponse(_lines(messages), media_type=NDJSON)


async def _lines(messages: AsyncIterator[Mapping[str, object] | bytes]) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message if isinstance(message, bytes) else encode_line(message)


def encode_line(value: Mapping[str, object]) -> bytes:
    """Return an object as a line of JSON."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"
