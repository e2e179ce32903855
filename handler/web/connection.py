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
MOST_WAITING = 4  # the most requests of a connection that wait while another request is answered

# the attributes of uvicorn that BoundedProtocol uses, besides the methods that it overrides
_USED = {
    HttpToolsProtocol: ("connections", "cycle", "flow", "headers", "loop", "parser", "pipeline", "transport", "url"),
    RequestResponseCycle: ("body", "keep_alive", "response_complete", "response_started", "scope"),
    FlowControl: ("pause_reading",),
}


class BoundedProtocol(HttpToolsProtocol):
    """Limits the descriptors, requests, bodies and unread answers that a peer without a key can hold.

    uvicorn itself has a timeout only for idle connections. The methods without an underscore override uvicorn's own,
    except those of `Stranger` and `Receiver`.
    """

    _due: asyncio.TimerHandle | None = None  # ends the connection if the present part of a request comes too late
    _in_headers = False
    _header_bytes, _has_given_up = 0, False

    def __init__(self, strangers: Strangers, unread: Unread, is_stopping: Callable[[], bool], **more: Any) -> None:
        """`strangers` counts connections. Once `is_stopping()`, each request is the last one of its connection."""
        super().__init__(**more)
        self._strangers, self._unread, self._is_stopping = strangers, unread, is_stopping
        self._reader = ""  # the caller whose answer is sent but not yet read by the client

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Start the deadline of the headers."""
        super().connection_made(transport)
        self._use_parser()
        limit_unread(transport.get_extra_info("socket"))
        self._strangers.make_room(len(self.connections))
        self._strangers.add(self)
        self._expect_headers()

    def on_message_begin(self) -> None:
        """Start the deadline of the next request's headers. Too many waiting requests end the connection."""
        if len(self.pipeline) == MOST_WAITING:
            raise ConnectionAbortedError
        super().on_message_begin()
        if not self._in_headers:
            self._expect_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Close the connection at an HTTP trailer, which uvicorn would add to the headers without a limit."""
        if not self._in_headers:
            self.transport.close()
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the deadline of the body, even if the route does not read a body."""
        # The gate also has a deadline, but only while a route reads the body.
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
        """Stop reading while requests wait. uvicorn would read more after each answer, so they would pile up."""
        self._strangers.add(self)
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()

    def pause_writing(self) -> None:
        """Count this connection as one of its caller's connections with unread bytes."""
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
        """Answer with an error object instead of uvicorn's text, unless another answer is being sent."""
        self._give_up(b"" if self._is_answering() else NOT_HTTP)

    def is_stranger(self) -> bool:
        """Return whether no request on this connection is signed and no answer is being sent."""
        if not self._is_answering():
            return True
        return not self.cycle.response_started and "signed" not in self.cycle.scope["state"]

    def give_way(self) -> None:
        """Close the connection, and free the received bytes."""
        self._expect_nothing()
        if self._is_answering():
            self.cycle.body.clear()
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Count the bytes of the headers, and answer 413 if there are too many."""
        if self._has_given_up:
            return
        if self._due is None and self.cycle.response_complete:
            # uvicorn stops its idle timeout at any byte, even at an empty line, which does not begin a request.
            self._expect_headers()
        if self._in_headers:
            self._header_bytes += len(data)
        self._strangers.charge(self, len(data))
        super().data_received(data)
        if self._in_headers and self._header_bytes > HEADER_BYTES:
            self._give_up(TOO_LARGE)

    # --- upgrades ---

    def _use_parser(self) -> None:
        """Begin with a new parser, in the way that uvicorn sets it up."""
        self.parser = Parser(self)
        self.parser.on_upgrade = self._ignore_upgrade
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _is_upgrade(self) -> bool:
        """Return whether the request asks for another protocol. CONNECT has no body and is answered normally."""
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Parse the request again without its upgrade header."""
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
        """Send a last answer, then discard received bytes, because closing with unread bytes resets a connection."""
        if self._has_given_up or self.transport.is_closing():
            return
        self._expect_nothing()
        self.transport.write(answer)
        if self._is_answering():  # the answer under way could not be finished
            self.transport.close()
            return
        self._has_given_up = True
        self.transport.write_eof()
        self._expect(LINGER_SECONDS, self.transport.close)


def limit_unread(accepted: socket.socket) -> None:
    """Have the kernel end a connection if sent bytes make no progress for UNREAD_SECONDS.

    A client that reads slowly makes progress and keeps its connection (tcp(7), TCP_USER_TIMEOUT). The kernel's send
    buffer is limited to SEND_BYTES. Otherwise it could take 4 MiB, which the handler would not count.
    """
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(UNREAD_SECONDS * 1000))


def check_uvicorn() -> None:
    """Raise ImportError if uvicorn lacks an attribute of BoundedProtocol, because a deadline would be missing."""
    own = {name for name in vars(BoundedProtocol) if not name.startswith("_")} - {*vars(Stranger), *vars(Receiver)}
    missing = sorted(name for name in own if not hasattr(HttpToolsProtocol, name))
    for kind, names in _USED.items():
        known = {
            name for each in vars(kind).values() if isinstance(each, FunctionType) for name in each.__code__.co_names
        }
        missing += [name for name in names if name not in known]
    if missing:
        raise ImportError(f"uvicorn {uvicorn.__version__} can't be used: its HTTP protocol has no {', '.join(missing)}")
