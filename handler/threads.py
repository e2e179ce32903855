"""Calls in daemon threads, with a deadline. A file system that hangs blocks neither the event loop, and with it the
power verbs, nor the end of the process."""

import asyncio
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from . import audit

T = TypeVar("T")


async def run_in_thread(call: Callable[[], T], seconds: float) -> T:
    """Return what a call returns in a thread of its own; raise what it raises, or TimeoutError after `seconds`."""
    return await _result(lambda work: threading.Thread(target=work, daemon=True).start(), call, seconds)


class DaemonThreads:
    """A few threads, started when first needed, that take calls in turn. Nothing waits for one that is stuck."""

    def __init__(self, name: str, threads: int) -> None:
        self._name, self._threads = name, threads
        self._work: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._started = False

    async def run(
        self, call: Callable[..., T], *arguments: Any, seconds: float, late: Callable[[T], None] | None = None
    ) -> T:
        """Return what a call returns; raise what it raises, or TimeoutError after `seconds`.

        A result that comes after that is given to `late`.
        """
        return await _result(self.later, partial(call, *arguments), seconds, late)

    def later(self, call: Callable[[], object]) -> None:
        """Queue a call whose result is not needed. The audit notes what it raises."""
        if not self._started:
            self._started = True
            for number in range(self._threads):
                threading.Thread(target=self._serve, name=f"{self._name}-{number}", daemon=True).start()
        self._work.put(call)

    def _serve(self) -> None:
        while True:
            try:
                self._work.get()()
            except Exception as error:  # a dead thread would be missed by every later call
                audit.note("background-call-failed", thread=self._name, error=repr(error))


async def _result(
    submit: Callable[[Callable[[], None]], None],
    call: Callable[[], T],
    seconds: float,
    late: Callable[[T], None] | None = None,
) -> T:
    loop, found = asyncio.get_running_loop(), asyncio.Future[T]()

    def settle(result: T | None, error: Exception | None) -> None:
        if error is not None:
            if not found.done():
                found.set_exception(error)
        elif not found.done():
            found.set_result(result)  # type: ignore[arg-type]  # it is what `call` returned
        elif late is not None:
            late(result)  # type: ignore[arg-type]

    def work() -> None:
        result, failed = None, None
        try:
            result = call()
        except Exception as error:
            failed = error
        try:
            loop.call_soon_threadsafe(settle, result, failed)
        except RuntimeError:  # the loop has ended
            pass

    submit(work)
    async with asyncio.timeout(seconds):
        return await found
