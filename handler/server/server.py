"""The uvicorn server: a shutdown that answers what has come and ends streams."""

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

# --- How many descriptors the handler may have, and what it says when there are none left ---

MOST = 65536
SAY_SECONDS = 60.0


def raise_limit() -> None:
    """Allow this process as many descriptors as the system lets it have, 65,536 at most."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(hard, MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class LoopErrors:
    """The event loop's exception handler: one line a minute where asyncio would print a trace for each connection.

    asyncio tries to accept as many connections as may wait, even after the first has failed (python/cpython#151615).
    """

    def __init__(self) -> None:
        self._said_at = -math.inf

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Handle what no task or callback has caught."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() - self._said_at >= SAY_SECONDS:
            self._said_at = loop.time()
            audit.note("out-of-descriptors", limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0], error=str(error))


# --- How the handler stops taking requests: each connection that a client has made gets its answer ---
#
# A listening socket that is closed resets the connections that wait in its queue. A proxy has often sent its request
# on them by then. It may not send a verb elsewhere after that, and answers 502. A refused connection is no problem,
# because a proxy asks the next handler.

ANSWER_SECONDS = 3.0  # for requests under way, before they get what there is of their answers
IDLE_SECONDS = 0.5  # for a connection without a request: one may be on its way
_ACCEPT_SECONDS = 1.0  # to accept what waits, if there are descriptors left
_LOOK_SECONDS = 0.02
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; Python has no name for it


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.POINTER(_Instruction)))


def drop_new_connections(listening: socket.socket) -> None:
    """Have the kernel drop what comes to this socket, so that its queue grows no more (socket(7), SO_ATTACH_FILTER).

    A client that connects sends its first packet again after a second. By then the socket is closed, and it is refused.
    """
    instruction = _Instruction(6, 0, 0, 0)  # BPF_RET, of no byte
    program = _Program(1, ctypes.pointer(instruction))
    try:
        listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))
    except OSError:
        pass  # the queue may grow until it is closed, for some microseconds


async def drain(server: uvicorn.Server, sockets: Sequence[socket.socket]) -> None:
    """Take no further connection; answer on the open ones, for ANSWER_SECONDS at most."""
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
    """Return once the event loop has accepted every connection that waited."""
    for listening in sockets:
        drop_new_connections(listening)
    loop = asyncio.get_running_loop()
    end = loop.time() + _ACCEPT_SECONDS
    while select.select(sockets, [], [], 0)[0] and loop.time() < end:  # noqa: ASYNC110  # nothing tells of that
        await asyncio.sleep(_LOOK_SECONDS)
    await asyncio.sleep(_LOOK_SECONDS)  # asyncio makes transports in tasks, which need the server to be open


# --- The uvicorn server, with a shutdown that answers what has come and ends streams ---

KEEP_ALIVE_SECONDS = 130  # longer than most proxies, so the one that ends an idle connection can't lose a request on it
SHUTDOWN_SECONDS = 2  # after ANSWER_SECONDS: for streams to end
BACKLOG = 2048  # connections that the system keeps until they are accepted
ACCEPTED_AT_ONCE = 16  # it takes some rounds of the loop until older connections have given way to them


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
        """Start to serve. asyncio has only one number for what it accepts at once and for the system's backlog."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(BACKLOG)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer what has come, then end what is still under way."""
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
        """End the turns. Verbs get some time until their answers are due."""
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
        log_level="error",  # a warning is a line for each request that is none
        log_config=None,  # its records go where those of all libraries go
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        backlog=ACCEPTED_AT_ONCE,
    )
    adopted.append(Server(settings))
    return adopted[0]
