"""Limits on what peers without a key take of the handler: descriptors, memory and time.

At a limit of the first two, the oldest connection gives way.

A connection is a stranger's until a request on it has a good signature or gets its answer, and again afterwards. So a
flood pushes out its own connections, and a new one always gets in. The operator's connection is among the newest, and
its request arrives at once.
"""

import asyncio
import resource
from collections import OrderedDict, deque
from typing import Protocol

MOST_BYTES = 32 * 1024 * 1024  # of all strangers together
CONNECTION_BYTES = 12 * 1024  # that a connection takes before its first byte (measured: 11 KiB with uvicorn 0.54)
_SHARE, _OTHERS = 0.9, 32  # strangers' share of the descriptors; the number kept for hosts, turns and files


class Stranger(Protocol):
    """A connection."""

    def is_stranger(self) -> bool:
        """Tell whether it may be closed: nothing on it is signed, and no answer is under way."""

    def give_way(self) -> None:
        """Close it, and free what it holds."""


class Strangers:
    """The connections of strangers, oldest first, and how many bytes each holds."""

    def __init__(self) -> None:
        self._held: OrderedDict[Stranger, int] = OrderedDict()
        self._bytes = 0

    def add(self, connection: Stranger) -> None:
        """Count a connection from now on, as the newest. It holds nothing yet."""
        self.remove(connection)
        self._held[connection] = 0
        self.charge(connection, CONNECTION_BYTES)

    def remove(self, connection: Stranger) -> None:
        """Count a connection no more."""
        self._bytes -= self._held.pop(connection, 0)

    def charge(self, connection: Stranger, size: int) -> None:
        """Count bytes that a connection sent. Where there are too many in all, the oldest connections give way."""
        if connection not in self._held:
            return
        self._held[connection] += size
        self._bytes += size
        while self._bytes > MOST_BYTES and self._close_oldest():
            pass

    def make_room(self, connections: int) -> None:
        """Close the oldest connection if there are so many that they take 90 % of the descriptors."""
        if connections >= _SHARE * resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _OTHERS:
            self._close_oldest()

    def _close_oldest(self) -> bool:
        """Close the oldest connection; return False if there is none. Drop those that are no stranger's any more."""
        while self._held:
            connection = next(iter(self._held))
            is_stranger = connection.is_stranger()
            self.remove(connection)
            if is_stranger:
                connection.give_way()
                return True
        return False


class RefusalQueue:
    """Lets one refusal, or one answer of an open route, be sent in each iteration of the event loop.

    Otherwise each await of a valid request waits for every refusal that is ready to be sent. Measured with 64
    connections that send bad signatures (./dev bench): the median of a good status is 17 to 28 ms with the queue, 23
    to 137 ms without it; with four refusals an iteration it is twice that with one.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Return when a refusal may be sent: in the next iteration, unless others are queued."""
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
