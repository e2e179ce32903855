"""A connection of the HTTP server: uvicorn's protocol, with deadlines and size limits for requests."""

import asyncio
import socket
from collections.abc import Callable
from types import FunctionType
from typing import Any

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from .edge import HEADER_BYTES, HEADER_SECONDS, NOT_HTTP, TOO_LARGE, TOO_SLOW, Parser, Receiver, Unread, without_upgrade
from .gate import BODY_SECONDS
from .strangers import Stranger, Strangers

UNREAD_SECONDS = 30.0
SEND_BYTES = 256 * 1024
LINGER_SECONDS = 2.0
MOST_WAITING = 4  # requests of one connection behind the one that is being answered

# what BoundedProtocol uses of uvicorn besides the methods that it overrides
_USED = {
    HttpToolsProtocol: ("connections", "cycle", "flow", "headers", "loop", "parser", "pipeline", "transport", "url"),
    RequestResponseCycle: ("body", "keep_alive", "response_complete", "response_started", "scope"),
    FlowControl: ("pause_reading",),
}


class BoundedProtocol(HttpToolsProtocol):
    """Bounds what a peer without a key can hold, and for how long: descriptors, requests, bodies, unread answers.

    uvicorn has a clock for an idle connection alone. The methods without an underscore override uvicorn's own, except
    those of `Stranger` and `Receiver`.
    """

    _due: asyncio.TimerHandle | None = None  # ends the connection unless this part of the request is whole by then
    _in_headers = False
    _header_bytes, _has_given_up = 0, False

    def __init__(self, strangers: Strangers, unread: Unread, is_stopping: Callable[[], bool], **more: Any) -> None:
        """`strangers` counts all connections; each request is the last of its connection once `is_stopping()`."""
        super().__init__(**more)
        self._strangers, self._unread, self._is_stopping = strangers, unread, is_stopping
        self._reader = ""  # the caller to which an answer is being sent, while it waits for the client

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Start the deadline of the headers."""
        super().connection_made(transport)
        self._use_parser()
        limit_unread(transport.get_extra_info("socket"))
        self._strangers.make_room(len(self.connections))
        self._strangers.add(self)
        self._expect_headers()

    def on_message_begin(self) -> None:
        """Start the deadline of the headers of the next request. One too many ends the connection."""
        if len(self.pipeline) == MOST_WAITING:
            raise ConnectionAbortedError
        super().on_message_begin()
        if not self._in_headers:
            self._expect_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Close the connection at an HTTP trailer: uvicorn would add it to the headers, without a limit."""
        if not self._in_headers:
            self.transport.close()
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the deadline of the body, also for a route that reads none."""
        # The gate has a deadline too, but only while a route reads the body.
        self._expect(BODY_SECONDS + 1, self.transport.close)
        if not self._is_upgrade():
            super().on_headers_complete()
            self.cycle.keep_alive &= not self._is_stopping()

    def on_message_complete(self) -> None:
        """End the deadline."""
        if not self._is_upgrade():
            self._expect_nothing()
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Read no further while requests wait: uvicorn would let them grow by what it reads for each answer."""
        self._strangers.add(self)
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()

    def pause_writing(self) -> None:
        """Count the connection among those of its caller that have unread bytes."""
        super().pause_writing()
        signed = self.cycle.scope["state"].get("signed") if self.cycle is not None else None
        if signed is not None:
            self._reader = signed.signed.caller.name
            self._unread.add(self._reader, self)

    def resume_writing(self) -> None:
        """Stop counting the connection."""
        self._unread.remove(self._reader, self)
        super().resume_writing()

    def unread_bytes(self) -> int:
        """Return how many bytes of answers wait for the client."""
        return self.transport.get_write_buffer_size()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the deadline."""
        self._unread.remove(self._reader, self)
        self._strangers.remove(self)
        self._expect_nothing()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer with an error object instead of uvicorn's text, or with nothing where another answer is under way."""
        self._give_up(b"" if self._is_answering() else NOT_HTTP)

    def is_stranger(self) -> bool:
        """Tell whether nothing on this connection is signed, and no answer is under way."""
        if not self._is_answering():
            return True
        return not self.cycle.response_started and "signed" not in self.cycle.scope["state"]

    def give_way(self) -> None:
        """Close the connection, and free what came."""
        self._expect_nothing()
        if self._is_answering():
            self.cycle.body.clear()
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Count the bytes of the headers, and answer 413 when they are too many."""
        if self._has_given_up:
            return
        if self._due is None and self.cycle.response_complete:
            # uvicorn stops its clock for an idle connection at any byte, and an empty line begins no request.
            self._expect_headers()
        if self._in_headers:
            self._header_bytes += len(data)
        self._strangers.charge(self, len(data))
        super().data_received(data)
        if self._in_headers and self._header_bytes > HEADER_BYTES:
            self._give_up(TOO_LARGE)

    # --- upgrades ---

    def _use_parser(self) -> None:
        """Begin with a new parser, as uvicorn sets it up."""
        self.parser = Parser(self)
        self.parser.on_upgrade = self._ignore_upgrade
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _is_upgrade(self) -> bool:
        """Tell whether the request wants another protocol; CONNECT, which has no body, is answered as it is."""
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse a request again, without its wish."""
        method, version, headers = self.parser.get_method(), self.parser.get_http_version(), self.headers
        if not self._is_upgrade():
            return
        self._use_parser()
        self._in_headers = True
        self.parser.feed_data(without_upgrade(method, self.url, version, headers) + rest)

    # --- deadlines ---

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect_headers(self) -> None:
        self._expect(HEADER_SECONDS, self._give_up, TOO_SLOW)
        self._in_headers, self._header_bytes = True, 0

    def _expect(self, seconds: float, expire: Callable[..., None], *arguments: bytes) -> None:
        self._expect_nothing()
        self._due = self.loop.call_later(seconds, expire, *arguments)

    def _expect_nothing(self) -> None:
        self._in_headers = False
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self, answer: bytes) -> None:
        """Send a last answer. Then drop what comes, because the system resets a connection with unread bytes."""
        if self._has_given_up or self.transport.is_closing():
            return
        self._expect_nothing()
        self.transport.write(answer)
        if self._is_answering():  # what is under way could not be written any more
            self.transport.close()
            return
        self._has_given_up = True
        self.transport.write_eof()
        self._expect(LINGER_SECONDS, self.transport.close)


def limit_unread(accepted: socket.socket) -> None:
    """Let the kernel end a connection on which sent bytes make no progress for UNREAD_SECONDS.

    A client that reads slowly makes progress and keeps its connection (tcp(7), TCP_USER_TIMEOUT). The kernel itself
    keeps SEND_BYTES for a client. Otherwise it would take 4 MiB, which no budget of ours sees.
    """
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_SECONDS * 1000))


def check_uvicorn() -> None:
    """Raise ImportError if uvicorn lacks what BoundedProtocol overrides or uses. A deadline would be missing."""
    own = {name for name in vars(BoundedProtocol) if not name.startswith("_")} - {*vars(Stranger), *vars(Receiver)}
    missing = sorted(name for name in own if not hasattr(HttpToolsProtocol, name))
    for kind, names in _USED.items():
        known = {
            name for each in vars(kind).values() if isinstance(each, FunctionType) for name in each.__code__.co_names
        }
        missing += [name for name in names if name not in known]
    if missing:
        raise ImportError(f"uvicorn {uvicorn.__version__} can't be used: its HTTP protocol has no {', '.join(missing)}")
