"""The uvicorn server, with a shutdown that answers what has come and ends streams."""

import asyncio
import signal
import socket
from collections.abc import Callable
from functools import partial
from types import FrameType

import uvicorn

from ..chat.service import ChatService
from ..config.model import Config
from ..service import Load, Service
from .app import create_app
from .connection import BoundedProtocol
from .descriptors import LoopErrors, raise_limit
from .draining import drain
from .strangers import Strangers
from .unread import Unread

KEEP_ALIVE_SECONDS = 130  # longer than most proxies: the one that ends an idle connection can't lose a request on it
SHUTDOWN_SECONDS = 2  # after draining.ANSWER_SECONDS: for streams to end
BACKLOG = 2048  # connections that the system keeps until they are accepted
ACCEPTED_AT_ONCE = 16  # it takes some rounds of the loop until older connections have given way to them


class Server(uvicorn.Server):
    """A server that tells the service to finish its streams before it waits for them."""

    service: Service | None = None
    on_adopt: Callable[[ChatService], None] = staticmethod(lambda chatting: None)
    loop: asyncio.AbstractEventLoop | None = None

    def adopt(self, service: Service, chatting: ChatService) -> None:
        """Serve a running service, and handle SIGHUP, which `cli.serve` has blocked until now."""
        self.service, self.loop = service, asyncio.get_running_loop()
        self.loop.set_exception_handler(LoopErrors().handle)
        self.on_adopt(chatting)
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
        create_app(config, load, lambda service, chatting: adopted[0].adopt(service, chatting)),
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
