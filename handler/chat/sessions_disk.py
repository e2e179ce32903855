"""The threads that touch sessions.dir, which may be a network's."""

from collections.abc import Callable
from typing import Any, TypeVar

from ..errors import SessionsUnwritable
from ..threads import DaemonThreads

THREADS = 4
SECONDS = 10.0

T = TypeVar("T")


class SessionsDisk:
    """Runs what reads and writes sessions.dir."""

    def __init__(self) -> None:
        self._threads = DaemonThreads("sessions", THREADS)
        self.later = self._threads.later

    async def run(self, call: Callable[..., T], *arguments: Any, late: Callable[[T], None] | None = None) -> T:
        """Return what a call returns; raise what it raises, and SessionsUnwritable when it does not return in time.

        A result that comes after that is given to `late`.
        """
        try:
            return await self._threads.run(call, *arguments, seconds=SECONDS, late=late)
        except TimeoutError:
            raise SessionsUnwritable(f"sessions.dir did not answer in {SECONDS:g} s", "is it on a network?") from None
