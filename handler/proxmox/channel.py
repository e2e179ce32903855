"""The host agent's resident session on one channel of a connection: sends requests, receives messages.

The host may send anything at any time, so only a few lines are read in each step of the event loop, and their bytes are
counted (allowance.py).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from ..base.allowance import ANSWER_BYTES, LINE_BYTES, VALUE_BYTES, Allowance, weight
from ..base.budget import FIRST_SECONDS
from ..base.errors import Lost, Unreached
from ..base.framer import Inflow
from ..base.proven import newer_proven
from ..config.ssh_library import asyncssh
from .handshake import Handshake, read_handshake
from .outcome import Message
from .patience import Patience
from .wire import PING_LINE, read_message

ALIVE_SECONDS = 5.0  # the answer to the ping before a mutating verb must come within this time
CLOSED = "lost"  # the cause if the connection ended before the request was sent, so that a new connection may be tried
LOST = "the connection was lost"
LINES_AT_ONCE = 64  # in one step of the event loop, so that other hosts and clients are not delayed


class Channel(asyncssh.SSHClientSession[bytes]):
    """The resident session on one channel: sends tagged requests, receives tagged JSON lines."""

    def __init__(self, close: Callable[[], None] = lambda: None) -> None:
        """`close` is called when the session has ended, and ends the connection."""
        self._inflow = Inflow(LINE_BYTES)
        self._is_taking = self._has_ended = False
        self._allowance = Allowance()
        self._close = close
        self.why_closed = LOST
        self.sent = 0  # the number of requests, for tests and the benchmark
        self._waiting: dict[str, asyncio.Queue[Message | None]] = {}
        self._chan: asyncssh.SSHClientChannel[bytes] | None = None
        self.last_data = 0.0
        self.closed = False
        self._is_agent = False  # not before the first message, because another forced command may send anything
        self.handshake = Handshake()

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Keep the channel for writing."""
        self._chan, self.last_data = chan, time.monotonic()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Pass the messages in the data on to the requests that wait for them."""
        if self.closed:
            return
        is_stderr = datatype is not None  # a host agent never writes to stderr, another forced command may
        if not self._may_send("", VALUE_BYTES + len(data) * is_stderr) or is_stderr:
            return
        self.last_data = time.monotonic()
        self._inflow.add(data)
        if not self._is_taking:
            self._is_taking = True
            self._take_lines()

    def _take_lines(self) -> None:
        """Take LINES_AT_ONCE lines, and stop reading from the connection until the rest is taken too.

        Data that has arrived is moved out of asyncssh in one piece, because asyncssh lets the host send another window
        for each piece that it delivers.
        """
        for line in self._inflow.take(LINES_AT_ONCE):
            if not self.closed:
                self._take(line)
        if self._chan is not None and not self._inflow:
            self._chan.resume_reading()
        self._is_taking = bool(self._inflow)
        if self._is_taking:
            if self._chan is not None:
                self._chan.pause_reading()
            asyncio.get_running_loop().call_soon(self._take_lines)
        elif self._has_ended:
            self._end()

    def _take(self, line: bytes | None) -> None:
        """Pass a line's message on to the request that waits for it."""
        size = weight(line)
        message = read_message(line) if line is not None and size <= ANSWER_BYTES else None
        tag = str(message.pop("tag", "")) if message is not None else ""
        queue = self._waiting.get(tag)
        if not self._may_send(tag if queue is not None else "", size) or message is None:
            return
        self._is_agent = True
        self.handshake = replace(self.handshake, proven=newer_proven(self.handshake.proven, message.get("proven")))
        if queue is not None:
            queue.put_nowait(message)
        elif message.get("stage") == "ping":  # a late answer
            self.hear(message)

    def _may_send(self, tag: str, size: int) -> bool:
        """Count the bytes that the host sent for a tag, or for no request. End the session at the limit."""
        why = self._allowance.use(tag, size, time.monotonic())
        if why:
            self.give_up(why)
        return not why

    def give_up(self, why: str = LOST) -> None:
        """End the session and discard unsent bytes, so that a request that timed out does not arrive later."""
        if not self.closed:
            self.why_closed = why
            self._inflow.clear()
            self._end()

    def hear(self, message: Message) -> None:
        """Store what a successful `ping` says about the host agent."""
        if message["type"] == "result" and message["exit_code"] == 0:
            self.handshake = read_handshake(message)

    async def ping(self, seconds: float | None = None) -> None:
        """Send a ping. Raises Lost if the host agent sends nothing at all for ALIVE_SECONDS."""
        began = time.monotonic()
        try:
            async for message in self.ask(PING_LINE, seconds or ALIVE_SECONDS):
                self.hear(message)
        except Lost:
            if self.closed or not self._is_agent or self.last_data < began:
                raise

    def connection_lost(self, exc: Exception | None) -> None:
        """End every waiting request, after everything that the host sent before has been read."""
        self._has_ended = True
        if not self._is_taking:
            self._end()

    def _end(self) -> None:
        self.closed = True
        for queue in self._waiting.values():
            queue.put_nowait(None)
        self._close()

    async def ask(self, line: str, first_seconds: float = FIRST_SECONDS) -> AsyncIterator[Message]:
        """Send a request and yield its messages, the last one a result.

        Raises Lost if the channel ends before the result, or if no message comes in time (patience.py). Raises
        Unreached if the channel had already ended.
        """
        if self.closed or self._chan is None:
            raise Unreached(CLOSED, self.why_closed, "send it again")
        self.sent += 1
        tag, queue = str(self.sent), asyncio.Queue[Message | None]()
        self._waiting[tag] = queue
        patience = Patience(time.monotonic(), first_seconds)
        try:
            self._chan.write(f"{tag} {line}\n".encode())
            while True:
                message = await asyncio.wait_for(queue.get(), patience.until - time.monotonic())
                if message is None:
                    raise Lost(self.why_closed)
                patience.update(message, time.monotonic())
                yield message
                if message["type"] == "result":
                    return
        except TimeoutError:
            raise Lost(f"no answer in {patience.seconds:g} s") from None
        except OSError:
            raise Lost(LOST) from None
        finally:
            self._allowance.end(tag)
            del self._waiting[tag]
