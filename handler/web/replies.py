"""The responses of the routes, and the headers of every answer."""

import json
import re
from collections.abc import AsyncIterator, Mapping

from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Send

from ..base.errors import BreakglassError, TooLarge, TooSlow, Unauthorized

# --- The responses of the routes: an error object, or a stream of lines ---

NDJSON = "application/x-ndjson"
PLAIN = "identity"  # content-encoding by which a route says that its answer must not be compressed
MOST_COMPRESSED = 1024 * 1024  # a longer answer has a large picture, which is already compressed, and is sent as it is


def error_reply(error: BreakglassError, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response for an error. All failed authentications get the same bytes.

    If the body was not read, the connection is closed.
    """
    answer = Unauthorized() if isinstance(error, Unauthorized) else error
    closing = {"connection": "close"} if isinstance(error, TooLarge | TooSlow) else {}
    all_headers = {"content-type": "application/json", **closing, **(headers or {})}
    return Response(encode_line(answer.as_json()), error.status, all_headers)


def encoded_reply(body: bytes, status: int, *, is_shared: bool = False) -> Response:
    """Return the response for an object that is encoded JSON. An answer that requests share stays uncompressed."""
    headers = {"content-encoding": PLAIN} if is_shared or len(body) > MOST_COMPRESSED else None
    return Response(body, status, headers, "application/json")


def stream_reply(messages: AsyncIterator[Mapping[str, object] | bytes]) -> Response:
    """Return a stream of JSON objects, one per line. A message of bytes is such a line already."""
    return StreamingResponse(_lines(messages), media_type=NDJSON)


async def _lines(messages: AsyncIterator[Mapping[str, object] | bytes]) -> AsyncIterator[bytes]:
    async for message in messages:
        yield message if isinstance(message, bytes) else encode_line(message)


def encode_line(value: Mapping[str, object]) -> bytes:
    """Return an object as a line of JSON."""
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


# --- The security and cache headers of every answer ---

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "worker-src 'self'; manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types breakglass"
)
_ALWAYS = [(b"x-content-type-options", b"nosniff")]
# Browsers read these headers only on documents and the worker. With other files, they would cost 0.2 s on a bad line.
_OF_DOCUMENTS = [
    (b"content-security-policy", _CSP.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
_PART = re.compile(r"/(?!sw\.js$|alert/)([\w-]+/)?[\w-]+\.(js|css|webmanifest|json)")
_NEVER_STORED = [(b"cache-control", b"no-store, no-transform"), (b"x-accel-buffering", b"no")]
# no-transform, because no device could store the page if a proxy alters a file (page.py)
_REVALIDATED = [(b"cache-control", b"no-cache, no-transform")]


def with_headers(is_api: bool, path: str, send: Send) -> Send:
    """Return a `send` that adds the headers of the API (never stored) or of the page's files."""
    extra = _ALWAYS + (_NEVER_STORED if is_api else _REVALIDATED)
    if is_api or not _PART.fullmatch(path):
        extra += _OF_DOCUMENTS

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *extra]
        await send(message)

    return guarded
