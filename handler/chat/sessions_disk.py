"""Runs the calls that touch sessions.dir in threads, because it may be on a network file system that hangs."""

from collections.abc import Callable
from typing import Any, TypeVar

from ..threads import DaemonThreads
from .errors import SessionsUnwritable

THREADS = 4
SECONDS = 10.0

T = TypeVar("T")


class SessionsDisk:
    """The threads for calls that read and write sessions.dir. `prune_later` has one of its own: pruning takes time."""

    def __init__(self) -> None:
        self._threads = DaemonThreads("sessions", THREADS)
        self.prune_later = DaemonThreads("sessions-prune", 1).run_later

    async def run(self, call: Callable[..., T], *arguments: Any, on_late: Callable[[T], None] | None = None) -> T:
        """Return what a call returns; raise what it raises, or SessionsUnwritable when it does not return in time.

        `on_late` gets a result that comes after that.
        """
        try:
            return await self._threads.run(call, *arguments, seconds=SECONDS, on_late=on_late)
        except TimeoutError:
            raise SessionsUnwritable(f"sessions.dir did not answer in {SECONDS:g} s", "check its file system") from None

    async def read(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return what a call returns; raise SessionsUnwritable also for a broken disk."""
        try:
            return await self.run(call, *arguments)
        except OSError as error:
            raise SessionsUnwritable(f"sessions.dir can't be used: {error}", "check sessions.dir") from None
