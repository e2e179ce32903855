"""A TCP proxy in front of an SSH server that can withhold what the server says, on the connections that are open."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


class Proxy:
    """Passes on what the client says always, and what the server says until it is muted."""

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self.stop_listening: Callable[[], None] = lambda: None
        self.muted = asyncio.Event()  # set once a piece of the server's was withheld
        self._server_port = server_port
        self._clients: list[asyncio.StreamWriter] = []
        self._writers: list[asyncio.StreamWriter] = []
        self._left: dict[asyncio.StreamWriter, int] = {}  # pieces that the server may still say, by client
        self._tasks: set[asyncio.Task[None]] = set()

    def mute_after(self, pieces: int) -> None:
        """Let each open connection's server say so many pieces more, then nothing."""
        self._left = dict.fromkeys(self._clients, pieces)
        self.muted.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        self._clients.append(writer)
        self._writers += [writer, to_server]
        for source, target in ((reader, to_server), (there, writer)):
            task = asyncio.create_task(self._pass_on(source, target))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await reader.read(65536):
                left = self._left.get(writer, 1)
                if writer in self._left:
                    self._left[writer] = left - 1
                if left > 0:
                    writer.write(piece)
                else:
                    self.muted.set()
        writer.close()

    async def close(self) -> None:
        """End every connection, and return once that is done."""
        for task in self._tasks:
            task.cancel()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*self._tasks, *(w.wait_closed() for w in self._writers), return_exceptions=True)


@asynccontextmanager
async def proxy_to(port: int) -> AsyncIterator[Proxy]:
    """Run a proxy to a port of this machine."""
    proxy = Proxy(port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port, proxy.stop_listening = server.sockets[0].getsockname()[1], server.close
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
