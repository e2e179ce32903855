"""The uvicorn server, with a shutdown that answers the received requests and ends the streams."""

import asyncio
import ctypes
import errno
import math
import resource
import select
import signal
import socket
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..base import audit
from ..config.model import Config
from ..service import Load, Service
from ..web.connection import BoundedProtocol
from ..web.edge import Unread
from ..web.strangers import Strangers
from .app import create_app

# --- The limit of descriptors, and the log when none are left ---

MOST = 65536
SAY_SECONDS = 60.0


def raise_limit() -> None:
    """Raise this process's limit of descriptors as far as the system allows, to at most 65,536."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class LoopErrors:
    """The event loop's exception handler: one line per minute instead of one trace per connection.

    asyncio tries to accept as many connections as may be queued, even after the first attempt has failed
    (python/cpython#151615).
    """

    def __init__(self) -> None:
        self._said_at = -math.inf

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle an exception that no task or callback has caught."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() - self._said_at >= SAY_SECONDS:
            self._said_at = loop.time()
            audit.note("out-of-descriptors", limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0], error=str(error))


# --- Stop accepting requests, so that every connection that a client has opened gets its answer ---
#
# Closing a listening socket resets the connections in its queue. A proxy has often already sent a request on such a
# connection. It may not repeat a verb at another handler, so it answers 502. A refused connection causes no
# error, because the proxy then asks the next handler.

ANSWER_SECONDS = 3.0  # for requests under way, which then get partial answers
IDLE_SECONDS = 0.5  # for a connection without a request, because a request may be on its way
_ACCEPT_SECONDS = 1.0  # for accepting queued connections, if descriptors are free
_LOOK_SECONDS = 0.02
_SO_ATTACH_FILTER = 26  # from asm-generic/socket.h, because Python has no name for it


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def drop_new_connections(listening: socket.socket) -> None:
    """Have the kernel drop new connections to this socket (socket(7), SO_ATTACH_FILTER).

    A client repeats the first packet of a new connection after a second. By then the socket is closed, so the
    connection is refused.
    """
    instruction = _Instruction(6, 0, 0, 0)  # BPF_RET that accepts no byte
    program = _Program(1, ctypes.pointer(instruction))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
    except OSError:
        pass  # the queue can grow for some microseconds until the socket is closed


async def drain(server: uvicorn.Server, sockets: Sequence[socket.socket]) -> None:
    """Accept no further connections. Answer on the open ones, for at most ANSWER_SECONDS."""
    state = server.server_state
    for connection in state.connections:
        if isinstance(connection, HttpToolsProtocol) and connection.cycle is not None:
            connection.cycle.keep_alive = False
    await _accept_waiting(sockets)
    for listening in server.servers:
        listening.close()
    loop = asyncio.get_running_loop()
    began = loop.time()
    while state.connections and loop.time() < began + (ANSWER_SECONDS if state.tasks else IDLE_SECONDS):  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_SECONDS)


async def _accept_waiting(sockets: Sequence[socket.socket]) -> None:
    """Wait until the event loop has accepted every queued connection."""
    for listening in sockets:
        drop_new_connections(listening)
    loop = asyncio.get_running_loop()
    end = loop.time() + _ACCEPT_SECONDS
    while select.select(sockets, [], [], 0)[0] and loop.time() < end:  # noqa: ASYNC110  # nothing tells of that
        await asyncio.sleep(_LOOK_SECONDS)
    await asyncio.sleep(_LOOK_SECONDS)  # asyncio creates transports in tasks, which need the server to be open


# --- The uvicorn server, with a shutdown that answers received requests and ends streams ---

# longer than most proxies keep a connection, because a request may be lost if the handler closes it first
KEEP_ALIVE_SECONDS = 130
SHUTDOWN_SECONDS = 2  # for streams to end, after ANSWER_SECONDS
BACKLOG = 2048  # connections that the system queues until they are accepted
ACCEPTED_AT_ONCE = 16  # small, so that the loop can also close older connections between two rounds


class Server(uvicorn.Server):
    """A server that tells the service to finish its streams before it waits for them."""

    service: Service | None = None
    loop: asyncio.AbstractEventLoop | None = None

    def adopt(self, service: Service) -> None:
        """Serve a running service, and handle SIGHUP, which `cli.serve` has blocked until now."""
        self.service, self.loop = service, asyncio.get_running_loop()
        self.loop.set_exception_handler(LoopErrors().handle)
        signal.signal(signal.SIGHUP, self.handle_hangup)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to serve. asyncio uses one number for connections accepted at once and for the backlog."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer the received requests, then end those still under way."""
        await drain(self, sockets or ())
        if self.service is not None:
            self.service.answers_due.set()
        await super().shutdown(sockets)

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """Request a reload."""
        assert self.loop is not None
        assert self.service is not None
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.service.hung_up.set)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End the turns. Verbs still get some time before their answers are due."""
        if self.loop is not None and self.service is not None:
            self.loop.call_soon_threadsafe(self.service.stopping.set)
        super().handle_exit(sig, frame)


def make_server(config: Config, load: Load, host: str, port: int) -> Server:
    """Return a server for `config`, not yet running; `load` reads it again on SIGHUP."""
    raise_limit()
    adopted: list[Server] = []
    settings = uvicorn.Config(
        create_app(config, load, lambda service, _: adopted[0].adopt(service)),
        host=host,
        port=port,
        http=partial(BoundedProtocol, Strangers(), Unread(), lambda: adopted[0].should_exit),  # type: ignore[arg-type]
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="error",  # a warning would be a line for each malformed request
        log_config=None,  # uvicorn's records go to the same log as those of all libraries
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        backlog=ACCEPTED_AT_ONCE,
    )
    adopted.append(Server(settings))
    return adopted[0]
