"""Runs calls in daemon threads, with a deadline.

So a hung file system blocks neither the event loop, which serves the power verbs, nor the exit of the process.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from . import audit

T = TypeVar("T")


async def run_in_thread(call: Callable[[], T], seconds: float) -> T:
    """Run a call in its own thread and return its result. Raises its errors, or TimeoutError after `seconds`."""
    return await _wait_for_result(lambda work: threading.Thread(target=work, daemon=True).start(), call, seconds)


class DaemonThreads:
    """A few threads with one queue of calls. They start with the first call. No caller waits for a stuck thread."""

    def __init__(self, name: str, threads: int) -> None:
        self._name, self._threads = name, threads
        self._work: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._started = False

    async def run(self, call: Callable[..., T], *arguments: Any, seconds: float) -> T:
        """Run a call and return its result. Raises its errors, or TimeoutError after `seconds`."""
        return await _wait_for_result(self.run_later, partial(call, *arguments), seconds)

    def run_later(self, call: Callable[[], object]) -> None:
        """Queue a call whose result is not needed. If it raises an error, the audit log records it."""
        if not self._started:
            self._started = True
            for number in range(self._threads):
                threading.Thread(target=self._serve, name=f"{self._name}-{number}", daemon=True).start()
        self._work.put(call)

    def _serve(self) -> None:
        while True:
            try:
                self._work.get()()
            except Exception as error:  # an error must not end this thread, because later calls would wait for ever
                audit.note("background-call-failed", thread=self._name, error=repr(error))


async def _wait_for_result(submit: Callable[[Callable[[], None]], None], call: Callable[[], T], seconds: float) -> T:
    loop, future = asyncio.get_running_loop(), asyncio.Future[T]()

    def deliver(result: T | None, error: Exception | None) -> None:
        if error is not None:
            if not future.done():
                future.set_exception(error)
        elif not future.done():
            future.set_result(result)  # type: ignore[arg-type]  # it is what `call` returned

    def work() -> None:
        result, raised = None, None
        try:
            result = call()
        except Exception as error:
            raised = error
        try:
            loop.call_soon_threadsafe(deliver, result, raised)
        except RuntimeError:  # the event loop has ended
            pass

    submit(work)
    async with asyncio.timeout(seconds):
        return await future
