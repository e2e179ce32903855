"""Speaks with the host agent behind one key, over the connection that the handler would use."""

import asyncio
import time
from contextlib import suppress

from ..config.model import Host
from ..errors import Lost, Unreached
from ..proxmox.handshake import Handshake, read_handshake
from ..proxmox.link import Link
from ..proxmox.outcome import Message
from ..proxmox.wire import PING_LINE
from .login import SshConnection

PING_SECONDS = 6.0  # the host agent's own deadline is 4 s
CHECK_SECONDS = 20.0


class NoAnswer(Exception):
    """The host agent did not answer; the text says why."""


class Session:
    """The host agent behind one key. `agent` is what it said of itself, and `result` all of that answer."""

    def __init__(self, connection: SshConnection, host: Host) -> None:
        self._link = Link(connection, host)
        self.agent = Handshake()
        self.result: Message = {}
        self.sent = self.received = 0.0  # this machine's clock, before and after that

    async def open(self, is_resident: bool) -> None:
        """Open the resident session, if the key may have one, and ask the host agent who it is; raise NoAnswer."""
        if is_resident:
            await self._link.open_session()
        with suppress(NoAnswer):
            await self._shake_hands()
        if not self.agent.heard:  # as the handler does: a read-only key has no session
            self._link.channel = None
            await self._shake_hands()

    async def _shake_hands(self) -> None:
        self.sent = time.time()
        self.result = await self.ask(PING_LINE, PING_SECONDS)
        self.received = time.time()
        if self.result["exit_code"] != 0:
            raise NoAnswer(f"it refuses a ping with exit {self.result['exit_code']}")
        self.agent = read_handshake(self.result)

    async def ask(self, line: str, seconds: float = CHECK_SECONDS) -> Message:
        """Return the result of a request that changes nothing; raise NoAnswer."""
        try:
            async with asyncio.timeout(seconds):
                return [message async for message in self._link.ask(line)][-1]
        except TimeoutError:
            raise NoAnswer(f"nothing came within {seconds:g} s") from None
        except (Lost, Unreached) as failure:
            raise NoAnswer(failure.message) from None

    def serves(self, vmid: int) -> bool:
        """Tell whether the key serves a VM, as far as the host agent says."""
        return self.agent.vms is None or vmid in self.agent.vms
