"""A few threads that touch sessions.dir, so that a file system which hangs holds up neither the event loop, and with it
the power verbs, nor the end of the process."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import SessionsUnwritable

THREADS = 4
SECONDS = 10.0

T = TypeVar("T")


class Disk:
    """The threads, started when first needed. They are daemons: nothing waits for one that is stuck."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._started = False

    async def run(self, call: Callable[..., T], *arguments: Any, late: Callable[[T], None] | None = None) -> T:
        """Return what a call returns; raise what it raises, and SessionsUnwritable when it does not return. What is
        returned after that is given to `late`."""
        loop, found = asyncio.get_running_loop(), asyncio.Future[T]()

        def settle(act: Callable[[Any], None], value: object) -> None:
            if not found.done():
                act(value)
            elif late is not None and act == found.set_result:
                late(value)  # type: ignore[arg-type]  # it is what `call` returned

        def work() -> None:
            try:
                outcome: tuple[Callable[[Any], None], object] = (found.set_result, call(*arguments))
            except Exception as error:
                outcome = (found.set_exception, error)
            try:
                loop.call_soon_threadsafe(settle, *outcome)
            except RuntimeError:  # the loop has ended
                pass

        self.later(work)
        try:
            async with asyncio.timeout(SECONDS):
                return await found
        except TimeoutError:
            raise SessionsUnwritable(f"sessions.dir did not answer in {SECONDS:g} s", "is it on a network?") from None

    def later(self, call: Callable[[], None]) -> None:
        """Have something done that nobody waits for."""
        if not self._started:
            self._started = True
            for number in range(THREADS):
                threading.Thread(target=self._serve, name=f"sessions-{number}", daemon=True).start()
        self._work.put(call)

    def _serve(self) -> None:
        while True:
            try:
                self._work.get()()
            except OSError:
                pass
