"""One SSH connection to a Proxmox host, and the host agent's resident session on it: each ends with the other.

In this package, only this file, `channel.py` and `connect.py` use asyncssh. They convert each of its errors to
`Unreached` (nothing was sent) or `Lost` (it may have been sent).
"""

import asyncio
import time
from contextlib import suppress

from ..base.budget import FIRST_SECONDS
from ..base.errors import Lost, Unreached
from ..config.model import Host
from ..config.ssh_library import asyncssh
from .channel import Channel
from .connect import CONNECT_SECONDS, connect, unreached
from .handshake import Handshake
from .wire import SESSION_LINE


class Link:
    """One SSH connection with its session."""

    def __init__(self, conn: asyncssh.SSHClientConnection, host: Host) -> None:
        self.conn = conn
        self._host = host
        self.channel = Channel(conn.abort)
        self.ask, self.abort = self.channel.ask, self.channel.give_up  # the end of the session ends the connection
        self.handshaking: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def handshake(self) -> Handshake:
        """The last handshake of the host agent."""
        return self.channel.handshake

    @property
    def alive(self) -> bool:
        """Return whether the session is open, without asking the host."""
        return not self.channel.closed and not self.conn.is_closed()

    async def open_session(self) -> None:
        """Open the resident session; raises any of asyncssh's errors."""
        async with asyncio.timeout(FIRST_SECONDS):
            await self.conn.create_session(lambda: self.channel, SESSION_LINE, encoding=None)

    def shake_hands(self) -> None:
        """Start the handshake. A verb waits for it only if the configuration names a node."""
        self.handshaking = asyncio.create_task(self._shake_hands())

    async def _shake_hands(self) -> None:
        with suppress(Lost, Unreached):
            await self.channel.ping(FIRST_SECONDS)

    async def answers(self, quiet_seconds: float = 0.0) -> bool:
        """Return whether the host agent answers a `ping`, or has sent something in the last few seconds."""
        if self.handshaking.done() and time.monotonic() - self.channel.last_data >= quiet_seconds:
            try:
                await self.channel.ping()
            except (Lost, Unreached):
                return False
        return self.alive

    async def prepare(self, until_heard: bool = False) -> None:
        """Raise Unreached if this node is not the configured one.

        Waits for the handshake if the configuration names a node, or with `until_heard`.
        """
        if (self._host.node or until_heard) and not self.handshake.heard:
            if self.handshaking.done():
                self.shake_hands()
            await asyncio.wait([self.handshaking])
        self.handshake.check_node(self._host)


async def open_link(host: Host) -> Link:
    """Connect, log in and open the session; raise Unreached with the cause."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS + 5):
            link = Link(await connect(host), host)
    except Exception as error:  # an unusual server can make the library raise any error; nothing was sent
        raise unreached(host, error) from None
    try:
        await link.open_session()
    except BaseException as error:
        link.abort()
        raise (unreached(host, error) if isinstance(error, Exception) else error) from None
    link.shake_hands()
    return link
