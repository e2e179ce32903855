"""Limits the descriptors, memory and time that peers without a key can use.

At the limit of descriptors or memory, the oldest connection is closed.

A connection counts as a stranger's except while a request with a valid signature is on it, or while an answer is being
sent. So a flood closes its own connections, and a new connection is always accepted. The operator's connection is among
the newest, and its request arrives at once.
"""

import asyncio
import resource
from collections import OrderedDict, deque
from typing import Protocol

MOST_BYTES = 32 * 1024 * 1024  # the most bytes of all strangers together
CONNECTION_BYTES = 12 * 1024  # memory of a connection before its first byte (measured: 11 KiB with uvicorn 0.54)
_SHARE, _OTHERS = 0.9, 32  # strangers' share of the descriptors, and the number reserved for hosts, turns and files


class Stranger(Protocol):
    """A connection."""

    def is_stranger(self) -> bool:
        """Return whether the connection may be closed. It may if no request on it is signed and no answer is sent."""

    def give_way(self) -> None:
        """Close the connection, and free its memory."""


class Strangers:
    """The connections of strangers, oldest first, and how many bytes each holds."""

    def __init__(self) -> None:
        self._held: OrderedDict[Stranger, int] = OrderedDict()
        self._bytes = 0

    def add(self, connection: Stranger) -> None:
        """Start to count a connection, as the newest one. It has no bytes yet."""
        self.remove(connection)
        self._held[connection] = 0
        self.charge(connection, CONNECTION_BYTES)

    def remove(self, connection: Stranger) -> None:
        """Stop counting a connection."""
        self._bytes -= self._held.pop(connection, 0)

    def charge(self, connection: Stranger, size: int) -> None:
        """Count bytes that a connection sent. If the total is too large, close the oldest connections."""
        if connection not in self._held:
            return
        self._held[connection] += size
        self._bytes += size
        while self._bytes > MOST_BYTES and self._close_oldest():
            pass

    def make_room(self, connections: int) -> None:
        """Close the oldest connection if strangers use 90 % of the descriptors."""
        if connections >= _SHARE * resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHERS:
            self._close_oldest()

    def _close_oldest(self) -> bool:
        """Close the oldest connection; return False if there is none. Skip those that no longer belong to strangers."""
        while self._held:
            connection = next(iter(self._held))
            is_stranger = connection.is_stranger()
            self.remove(connection)
            if is_stranger:
                connection.give_way()
                return True
        return False


class RefusalQueue:
    """Sends one refusal, or one answer of an open route, in each iteration of the event loop.

    Otherwise each await in a valid request would wait for all refusals that are ready to be sent. Measured with 64
    connections that send bad signatures (./dev bench): the median of a good status is 17 to 28 ms with the queue, 23 to
    137 ms without it; with four refusals per iteration, it is twice as long as with one.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait until a refusal may be sent, which is in the next iteration unless others are queued."""
        loop = asyncio.get_running_loop()
        permission = loop.create_future()
        self._waiting.append(permission)
        if len(self._waiting) == 1:
            loop.call_soon(self._permit_next)
        await permission

    def _permit_next(self) -> None:
        permission = self._waiting.popleft()
        if not permission.done():
            permission.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._permit_next)
