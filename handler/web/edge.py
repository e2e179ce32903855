"""HTTP that uvicorn leaves to this program: upgrades, malformed requests and unread answers."""

import json
from collections.abc import Callable, Iterable
from typing import Protocol

import httptools

from ..base.errors import BadRequest, BreakglassError, TooLarge, TooSlow

# --- Ignore a client's wish for another protocol, as RFC 9110 (7.8) allows. `curl --http2` sends such a wish ---
#
# The parser would end such a request at its headers, and its body would be lost.

Header = tuple[bytes, bytes]


class Parser(httptools.HttpRequestParser):
    """A parser that passes the bytes after the headers to `on_upgrade` instead of raising an exception."""

    on_upgrade: Callable[[bytes], None]

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # asyncio gives bytes
        """Parse received bytes."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.on_upgrade(data[upgrade.args[0] :])


def without_upgrade(method: bytes, target: bytes, version: str, headers: Iterable[Header]) -> bytes:
    """Return the head of a parsed request without its upgrade header."""
    lines = [b"%s %s HTTP/%s" % (method, target, version.encode())]
    for name, value in headers:
        if name == b"connection":
            tokens = [token for token in value.split(b",") if token.strip().lower() != b"upgrade"]
            value = b",".join(tokens)
        if name != b"upgrade":
            lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"", b""])


# --- The answers that end a connection before a request is complete ---

HEADER_SECONDS = 10.0
HEADER_BYTES = 32 * 1024


def _last_answer(status: str, error: BreakglassError) -> bytes:
    body = json.dumps(error.as_json()).encode() + b"\n"
    headers = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    return f"HTTP/1.1 {status}\r\n{headers}\r\n".encode() + body


TOO_SLOW = _last_answer("408 Request Timeout", TooSlow(f"the headers did not arrive in {HEADER_SECONDS:g} s"))
TOO_LARGE = _last_answer("413 Content Too Large", TooLarge(f"the headers are longer than {HEADER_BYTES} bytes"))
NOT_HTTP = _last_answer("400 Bad Request", BadRequest("this is not an HTTP request"))


# --- Limit the answers that callers leave unread. At the limit, the caller's oldest connection with unread bytes is
# closed. Without a limit, a client that requests old pictures and reads none of them would fill the handler's memory.
# The caller's newest connections stay open, so a slow reader still gets its last answers.

MOST_UNREAD_BYTES = 32 * 1024 * 1024  # the most of one caller; an answer with a job's picture has at most 2.8 MB


class Receiver(Protocol):
    """A connection to which an answer is being sent."""

    def unread_bytes(self) -> int:
        """Return how many bytes wait for the client."""

    def give_way(self) -> None:
        """Close the connection, and free its bytes."""


class Unread:
    """The connections with unread bytes, by caller, the oldest first."""

    def __init__(self) -> None:
        self._held: dict[str, dict[Receiver, None]] = {}

    def add(self, caller: str, connection: Receiver) -> None:
        """Start to count a connection. At the caller's limit, close its connections, oldest first."""
        held = self._held.setdefault(caller, {})
        held[connection] = None
        while len(held) > 1 and sum(each.unread_bytes() for each in held) > MOST_UNREAD_BYTES:
            oldest = next(iter(held))
            del held[oldest]
            oldest.give_way()

    def remove(self, caller: str, connection: Receiver) -> None:
        """Stop counting a connection."""
        held = self._held.get(caller, {})
        held.pop(connection, None)
        if not held:
            self._held.pop(caller, None)
