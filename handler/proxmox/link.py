"""One SSH connection to a Proxmox host, and the host agent's resident session on it.

Here, only this file, `connect.py` and `execs.py` use asyncssh. They turn each of its failures into `Unreached` (nothing
was sent) or `Lost` (it may have been sent).
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

from ..config.model import Host
from ..config.ssh_library import asyncssh
from ..errors import Lost, Unreached
from ..framer import Framer
from ..proven import newer_proven
from .connect import CONNECT_SECONDS, connect, unreached
from .execs import FAILURES, Execs
from .handshake import Handshake, read_handshake
from .outcome import Message
from .patience import FIRST_SECONDS, Patience
from .wire import PING_LINE, SESSION_LINE, TOO_LONG, is_message

ALIVE_SECONDS = 5.0  # to answer a ping before a mutating verb is sent
SESSION_PAUSE = 30.0  # between two attempts to open a session on the same connection


class Channel(asyncssh.SSHClientSession[bytes]):
    """The resident session on one channel: tagged requests out, tagged JSON lines in."""

    def __init__(self) -> None:
        self._framer = Framer()
        self._why_closed = "the connection was lost"
        self.sent = 0  # requests, which tests and the bench count
        self._waiting: dict[str, asyncio.Queue[Message | None]] = {}
        self._chan: asyncssh.SSHClientChannel[bytes] | None = None
        self.last_data = 0.0
        self.closed = False
        self._is_agent = False  # once it has sent a message: another forced command may send anything
        self.handshake = Handshake()

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        """Keep the channel, to write to it."""
        self._chan, self.last_data = chan, time.monotonic()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        """Pass the messages in the data on to the requests that wait for them."""
        if datatype is not None or self.closed:  # only another forced command writes to stderr
            return
        self.last_data = time.monotonic()
        for line in self._framer.feed(data):
            if line is None:
                self.give_up(TOO_LONG)
                return
            self._pass_on(line)
        if self._framer.is_too_long:
            self.give_up(TOO_LONG)

    def give_up(self, why: str) -> None:
        """Close the session because of what the host sends on it. The connection stays open."""
        self._why_closed = why
        if self._chan is not None:
            self._chan.abort()
        self.connection_lost(None)

    def _pass_on(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(message, dict) or not is_message(message):
            return
        self._is_agent = True
        self.handshake = replace(self.handshake, proven=newer_proven(self.handshake.proven, message.get("proven")))
        tag = message.pop("tag", None)
        if isinstance(tag, str) and tag in self._waiting:
            self._waiting[tag].put_nowait(message)
        elif message.get("stage") == "ping":  # late, or of a host agent in which the session of a replaced one goes on
            self.hear(message)

    def hear(self, message: Message) -> None:
        """Keep what a `ping` that succeeded says of the host agent."""
        if message["type"] == "result" and message["exit_code"] == 0:
            self.handshake = read_handshake(message)

    async def ping(self) -> None:
        """Raise Lost when the host agent sends nothing for ALIVE_SECONDS, neither its answer nor another one."""
        began = time.monotonic()
        try:
            async for message in self.ask(PING_LINE, ALIVE_SECONDS):
                self.hear(message)
        except Lost:
            if self.closed or not self._is_agent or self.last_data < began:
                raise

    def connection_lost(self, exc: Exception | None) -> None:
        """End every request that waits."""
        self.closed = True
        for queue in self._waiting.values():
            queue.put_nowait(None)

    async def ask(self, line: str, first_seconds: float = FIRST_SECONDS) -> AsyncIterator[Message]:
        """Send a request and yield its messages, the last one a result.

        Raise Lost when the channel ends before the result, or no message comes in time (patience.py).
        """
        assert self._chan is not None
        if self.closed:
            raise Lost("the session had ended")
        self.sent += 1
        tag, queue = str(self.sent), asyncio.Queue[Message | None]()
        self._waiting[tag] = queue
        patience = Patience(time.monotonic(), first_seconds)
        try:
            self._chan.write(f"{tag} {line}\n".encode())
            while True:
                message = await asyncio.wait_for(queue.get(), patience.until - time.monotonic())
                if message is None:
                    raise Lost(self._why_closed)
                patience.update(message, time.monotonic())
                yield message
                if message["type"] == "result":
                    return
        except TimeoutError:
            raise Lost(f"no answer in {patience.seconds:g} s") from None
        except OSError:
            raise Lost("the connection was lost") from None
        finally:
            del self._waiting[tag]


class Link:
    """One SSH connection, with the session when the agent has one."""

    def __init__(self, conn: asyncssh.SSHClientConnection, host: Host) -> None:
        self.conn = conn
        self._host = host
        self.channel: Channel | None = None
        self._by_exec = Handshake()
        self.handshaking: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tried_session = float("-inf")
        self._aborted = False
        self._execs = Execs(conn)

    @property
    def handshake(self) -> Handshake:
        """What the host agent said of itself last."""
        return self.channel.handshake if self.channel is not None else self._by_exec

    @property
    def alive(self) -> bool:
        """Tell whether the connection is open, as far as is known without asking the host."""
        return not self._aborted and not self.conn.is_closed()

    async def open_session(self) -> None:
        """Open the resident session. Without one (an older agent, a full host), each request is an exec of its own."""
        channel = Channel()
        self._tried_session = time.monotonic()
        with suppress(*FAILURES):
            async with asyncio.timeout(ALIVE_SECONDS):
                await self.conn.create_session(lambda: channel, SESSION_LINE, encoding=None)
            self.channel = channel

    def shake_hands(self) -> None:
        """Begin to ask what the host agent is. No verb waits for the answer, unless the configuration names a node."""
        self.handshaking = asyncio.create_task(self._shake_hands(self.channel))

    async def _shake_hands(self, channel: Channel | None) -> None:
        """Ask on the session; if it is none of ours, end it and ask by an exec: a read-only key has no session."""
        if channel is not None:
            with suppress(Lost):
                await channel.ping()
                return
            channel.give_up("the host agent did not answer")
            self.channel = None if self.channel is channel else self.channel
        with suppress(Lost, Unreached):
            result = (await self._execs.send(PING_LINE))[-1]
            self._by_exec = read_handshake(result) if result["exit_code"] == 0 else Handshake()

    async def answers(self, quiet_seconds: float = 0.0) -> bool:
        """Tell whether the host agent answers a `ping`, or has sent something in the last few seconds.

        Where no session is open, the connection counts as good until asyncssh's keepalive ends it.
        """
        channel = self.channel
        if channel is not None and self.handshaking.done() and time.monotonic() - channel.last_data >= quiet_seconds:
            try:
                await channel.ping()
            except Lost:
                return channel.closed and self.alive
        return self.alive

    async def prepare(self, until_heard: bool = False) -> None:
        """Open the session again where it has ended; raise Unreached if this is another node than the configured one.

        Wait for what the host agent says of itself where the configuration names a node, or with `until_heard`.
        """
        if self.channel is not None and self.channel.closed:
            self.channel, self._tried_session = None, float("-inf")
        if self.channel is None and time.monotonic() - self._tried_session > SESSION_PAUSE:
            await self.open_session()
            self.shake_hands()
        if (self._host.node or until_heard) and not self.handshake.heard:
            if self.handshaking.done():
                self.shake_hands()
            await asyncio.wait([self.handshaking])
        self.handshake.check_node(self._host)

    async def ask(self, line: str) -> AsyncIterator[Message]:
        """Send a request on the session, or as an exec of its own."""
        async for message in (self.channel or self._execs).ask(line):
            yield message

    def abort(self) -> None:
        """Close the connection and discard unsent bytes: a request that timed out must not arrive minutes later."""
        self._aborted = True
        self.conn.abort()


async def open_link(host: Host) -> Link:
    """Connect, log in and open the session; raise Unreached with the cause."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS + 5):
            link = Link(await connect(host), host)
    except Exception as error:  # an odd server can make the library raise anything; nothing was sent
        raise unreached(host, error) from None
    try:
        await link.open_session()
        link.shake_hands()
    except BaseException:
        link.abort()
        raise
    return link
