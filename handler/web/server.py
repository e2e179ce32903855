"""uvicorn, with what it lacks for us: a deadline and a size for request headers, and a shutdown that ends streams."""

import asyncio
import fcntl
import json
import signal
import socket
import struct
import sys
import termios
from types import FrameType

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..config.model import Config
from ..errors import BadRequest, BreakglassError, TooLarge, TooSlow
from ..service import Load, Service
from .app import create_app
from .gate import BODY_SECONDS

HEADER_SECONDS = 10.0
HEADER_BYTES = 32 * 1024
UNREAD_SECONDS = 10.0  # how long what is written may wait for a client that reads nothing
SHUTDOWN_SECONDS = 5


def _last_answer(status: str, error: BreakglassError) -> bytes:
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    return head.encode() + json.dumps(error.as_json()).encode() + b"\n"


_TOO_SLOW = _last_answer("408 Request Timeout", TooSlow(f"the headers did not arrive in {HEADER_SECONDS:g} s"))
_TOO_LARGE = _last_answer("413 Content Too Large", TooLarge(f"the headers are longer than {HEADER_BYTES} bytes"))


_NOT_HTTP = _last_answer("400 Bad Request", BadRequest("this is not an HTTP request"))


class DeadlineProtocol(HttpToolsProtocol):
    """Closes a connection whose request headers are not whole in time: half a request must not hold a descriptor."""

    _headers_due: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _unread_due: asyncio.TimerHandle | None = None
    _body_due: asyncio.TimerHandle | None = None  # a body that nobody waits for must not hold a descriptor either

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._expect_headers()

    def pause_writing(self) -> None:
        """Give a client that does not read what it asked for a little time, and no more."""
        super().pause_writing()
        self._expect_reading(self._unread())

    def resume_writing(self) -> None:
        self._was_read()
        super().resume_writing()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._body_due is not None:  # a trailer: nothing here reads them, and they have no end of their own
            self.transport.close()
            return
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._headers_arrived()
        self._body_due = self.loop.call_later(BODY_SECONDS + 1, self.transport.close)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._body_arrived()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._headers_arrived()
        self._body_arrived()
        self._was_read()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._give_up(_NOT_HTTP)

    def data_received(self, data: bytes) -> None:
        if self._headers_due is not None:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._headers_due is not None and self._header_bytes > HEADER_BYTES:
            self._give_up(_TOO_LARGE)

    def _expect_headers(self) -> None:
        if self._headers_due is None:
            self._header_bytes = 0
            self._headers_due = self.loop.call_later(HEADER_SECONDS, self._give_up, _TOO_SLOW)

    def _headers_arrived(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _body_arrived(self) -> None:
        if self._body_due is not None:
            self._body_due.cancel()
            self._body_due = None

    def _expect_reading(self, before: int) -> None:
        self._unread_due = self.loop.call_later(UNREAD_SECONDS, self._judge_reading, before)

    def _judge_reading(self, before: int) -> None:
        """Let a slow client go on: only one that reads nothing at all is cut off."""
        unread = self._unread()
        if unread < before:
            self._expect_reading(unread)
        else:
            self._reset()

    def _unread(self) -> int:
        """Return how many bytes wait for the client, here and in the kernel (tcp(7), SIOCOUTQ)."""
        waiting = bytearray(4)
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, waiting)
        return int.from_bytes(waiting, sys.byteorder) + self.transport.get_write_buffer_size()

    def _reset(self) -> None:
        """End the connection at once; what the client did not read must not stay in the kernel either."""
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _was_read(self) -> None:
        if self._unread_due is not None:
            self._unread_due.cancel()
            self._unread_due = None

    def _give_up(self, answer: bytes) -> None:
        self._headers_arrived()
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()


class Server(uvicorn.Server):
    """A server that tells the service to finish its streams before it waits for them."""

    service: Service | None = None
    loop: asyncio.AbstractEventLoop | None = None

    def adopt(self, service: Service) -> None:
        """Take a running service on, and from now on SIGHUP, which `cli.serve` held back until somebody would hear."""
        self.service = service
        self.loop = asyncio.get_running_loop()
        signal.signal(signal.SIGHUP, self.handle_hangup)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        assert self.loop is not None
        assert self.service is not None
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.service.hung_up.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.loop is not None and self.service is not None:
            self.loop.call_soon_threadsafe(self.service.stopping.set)
        super().handle_exit(sig, frame)


def make_server(config: Config, load: Load, host: str, port: int) -> Server:
    """Return a server for `config`, not yet running; `load` reads it again on SIGHUP."""
    adopted: list[Server] = []
    settings = uvicorn.Config(
        create_app(config, load, lambda service: adopted[0].adopt(service)),
        host=host,
        port=port,
        http=DeadlineProtocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        backlog=2048,
    )
    server = Server(settings)
    adopted.append(server)
    return server
