"""One SSH connection to a Proxmox host, and the host agent's resident session on it.

Here, only this file, `channel.py`, `connect.py` and `execs.py` use asyncssh. They turn each of its failures into
`Unreached` (nothing was sent) or `Lost` (it may have been sent).
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from .. import audit
from ..allowance import SessionPause
from ..config.model import Host
from ..config.ssh_library import asyncssh
from ..errors import Lost, Unreached
from .channel import ALIVE_SECONDS, Channel
from .connect import CONNECT_SECONDS, connect, unreached
from .execs import FAILURES, Execs
from .handshake import Handshake, read_handshake
from .outcome import Message
from .wire import PING_LINE, SESSION_LINE

SESSION_PAUSE = 30.0  # between two attempts to open a session on the same connection


class Link:
    """One SSH connection, with the session when the agent has one."""

    def __init__(self, conn: asyncssh.SSHClientConnection, host: Host, pause: SessionPause | None = None) -> None:
        self.conn = conn
        self._host = host
        self._session_pause = pause or SessionPause()
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

    @property
    def may_open_session(self) -> bool:
        """Tell whether the pauses are over: after the last attempt, and after the host sent too much on a session."""
        now = time.monotonic()
        return now - self._tried_session > SESSION_PAUSE and self._session_pause.is_over(now)

    async def open_session(self) -> None:
        """Open the resident session. Without one (an older agent, a full host), each request is an exec of its own."""
        channel = Channel(self._note_flood)
        self._tried_session = time.monotonic()
        with suppress(*FAILURES):
            async with asyncio.timeout(ALIVE_SECONDS):
                await self.conn.create_session(lambda: channel, SESSION_LINE, encoding=None)
            self.channel = channel

    def _note_flood(self, why: str) -> None:
        seconds = self._session_pause.begin(time.monotonic())
        audit.note("session-given-up", host=self._host.name, why=why, pause_seconds=seconds)

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
        if self.channel is None and self.may_open_session:
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


async def open_link(host: Host, pause: SessionPause | None = None) -> Link:
    """Connect, log in and open the session, unless it has to pause; raise Unreached with the cause."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS + 5):
            link = Link(await connect(host), host, pause)
    except Exception as error:  # an odd server can make the library raise anything; nothing was sent
        raise unreached(host, error) from None
    try:
        if link.may_open_session:
            await link.open_session()
        link.shake_hands()
    except BaseException:
        link.abort()
        raise
    return link
