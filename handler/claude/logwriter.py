"""Writes a turn's events to its log, and looks for the file that cancels the turn, in a thread of its own.

A file system that hangs blocks this thread only. The runner's limits keep their clock. Standard library only.
"""

import fcntl
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial

from .eventlog import write_all
from .events import Event, encoded

LOOK_SECONDS = 0.1  # between two looks for the file `cancel`


class LogWriter:
    """The only user of a turn's files while the turn runs.

    `size` counts the bytes that were handed over, `failed` says that one of them could not be written, and `cancelled`
    that the file `cancel` exists. `on_growth` is called in the thread after each write.
    """

    def __init__(self, log: int, cancel: str, on_growth: Callable[[], None]) -> None:
        self.size = 0
        self.failed = self.cancelled = False
        self._log, self._cancel, self._on_growth = log, cancel, on_growth
        self._next_look = 0.0
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def write(self, events: Iterable[Event]) -> None:
        """Append events to the log, soon."""
        data = b"".join(map(encoded, events))
        if data:
            self.size += len(data)
            self._calls.put(partial(self._append, data))

    def unlock(self, fd: int) -> None:
        """Release a lock once everything before is written. On a network's file system that can hang, too."""
        self._calls.put(partial(fcntl.flock, fd, fcntl.LOCK_UN))

    def close(self, seconds: float) -> None:
        """Wait until everything is written, but not for longer than `seconds`."""
        self._calls.put(None)
        self._thread.join(seconds)

    def _serve(self) -> None:
        while True:
            try:
                call = self._calls.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                call = self._look
            if call is None:
                return
            try:
                call()
            except OSError:
                self.failed = True
            self._look()

    def _append(self, data: bytes) -> None:
        write_all(self._log, data)
        self._on_growth()

    def _look(self) -> None:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK_SECONDS
            self.cancelled = self.cancelled or os.path.exists(self._cancel)
