"""Speaks with the host agent behind one key, over the connection that the handler would use."""

import asyncio
import time

from ..budget import CHECK_SECONDS, READ_SECONDS
from ..config.model import Host
from ..errors import Lost, Unreached
from ..proxmox.handshake import Handshake, read_handshake
from ..proxmox.link import Link
from ..proxmox.outcome import Message
from ..proxmox.wire import CHECK_LINE, PING_LINE
from .login import FAILURES, SshConnection


class AgentSilent(Exception):
    """The host agent did not answer; the text says why."""


class AgentSession:
    """The host agent behind one key. `agent` is what it said of itself, and `time` its clock then."""

    def __init__(self, connection: SshConnection, host: Host) -> None:
        self._link = Link(connection, host)
        self.agent = Handshake()
        self.time: object = None
        self.sent = self.received = 0.0  # this machine's clock, before and after that

    async def open(self) -> None:
        """Open the resident session, and ask the host agent who it is; raise AgentSilent."""
        try:
            await self._link.open_session()
        except FAILURES as error:
            raise AgentSilent(f"no session opens ({error})") from None
        self.sent = time.time()
        result = await self.ask(PING_LINE, READ_SECONDS)
        self.received = time.time()
        if result["exit_code"] != 0:
            raise AgentSilent(f"it refuses a ping with exit {result['exit_code']}")
        self.agent, self.time = read_handshake(result), result.get("time")

    async def ask_for_check(self, vmid: int | None = None) -> Message:
        """Return the result of the host's check of itself or of a VM; raise AgentSilent."""
        result = await self.ask(CHECK_LINE if vmid is None else f"{CHECK_LINE} vm={vmid}", CHECK_SECONDS)
        if result["exit_code"] != 0:
            raise AgentSilent(f"it ended with exit {result['exit_code']}")
        return result

    async def ask(self, line: str, seconds: float) -> Message:
        """Return the result of a request that changes nothing; raise AgentSilent."""
        try:
            async with asyncio.timeout(seconds):
                return [message async for message in self._link.ask(line)][-1]
        except TimeoutError:
            raise AgentSilent(f"nothing came within {seconds:g} s") from None
        except (Lost, Unreached) as failure:
            raise AgentSilent(failure.message) from None

    def serves(self, vmid: int) -> bool:
        """Tell whether the key serves a VM, as far as the host agent says."""
        return vmid in self.agent.vms
