"""What a runner writes: a turn's events to its log, and a defect of its own to standard error."""

import fcntl
import json
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType

from .events import Event, encode_event

# --- Writes a turn's events to its log and looks for the file that cancels the turn, in a thread of its own ---
#
# A file system that hangs blocks this thread alone, so the runner still enforces its limits. Standard library only.

CHECK_SECONDS = 0.1  # between two checks for the file `cancel`


class LogWriter:
    """The thread that uses a turn's files while the turn runs. No other code of the runner does.

    `size` counts the bytes given to `write`, `has_failed` says that a write failed, and `is_cancelled` that the file
    `cancel` exists. The thread calls `on_growth` after each write.
    """

    def __init__(self, log: int, cancel: str, on_growth: Callable[[], None]) -> None:
        self.size = 0
        self.has_failed = self.is_cancelled = False
        self._log, self._cancel, self._on_growth = log, cancel, on_growth
        self._next_check = 0.0
        self._unwritten = b""  # what a failed write left: the next one continues there, so that no line is torn
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="log", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def write(self, events: Iterable[Event]) -> None:
        """Queue events to be appended to the log."""
        data = b"".join(map(encode_event, events))
        if data:
            self.size += len(data)
            self._calls.put(partial(self._append, data))

    def unlock(self, fd: int) -> None:
        """Queue the release of a lock, after everything queued before. On a network file system this can hang."""
        self._calls.put(partial(fcntl.flock, fd, fcntl.LOCK_UN))

    def close(self, seconds: float) -> None:
        """Wait until everything is written, at most for `seconds`."""
        self._calls.put(None)
        self._thread.join(seconds)

    def _serve(self) -> None:
        while True:
            try:
                call = self._calls.get(timeout=CHECK_SECONDS)
            except queue.Empty:
                call = self._check_cancel
            if call is None:
                return
            try:
                call()
            except Exception:  # a full disk, or a defect of ours: the turn ends, and this thread goes on
                self.has_failed = True
            self._check_cancel()

    def _append(self, data: bytes) -> None:
        self._unwritten += data
        while self._unwritten:
            self._unwritten = self._unwritten[os.write(self._log, self._unwritten) :]
        self._on_growth()

    def _check_cancel(self) -> None:
        now = time.monotonic()
        if now >= self._next_check:
            self._next_check = now + CHECK_SECONDS
            self.is_cancelled = self.is_cancelled or os.path.lexists(self._cancel)  # no link is followed


# --- Writes a defect of the runner as a line of the log, which is its standard error. It imports few modules ---
#
# The runner waits for its imports, so this uses neither the log of the handler (audit.py) nor `traceback`.

LOG = 2
_MOST_CHARACTERS = 1500  # of each text: a line of one page is written whole, or not at all


def log_defects() -> None:
    """Write what ends this process, or a thread of it, as one line in place of a traceback."""
    sys.excepthook = _on_exception
    threading.excepthook = lambda arguments: _log(arguments.exc_value, arguments.exc_traceback)


def _on_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _log(error, trace)


def _log(error: BaseException | None, trace: TracebackType | None) -> None:
    """Write a line as docs/logs.md has it, unless its reader is late: the turn's lock must not wait for that."""
    places = []
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno} {trace.tb_frame.f_code.co_name}")
        trace = trace.tb_next
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "level": "error",
        "event": "defect",
        "where": "runner",
        "error": repr(error)[:_MOST_CHARACTERS],
        "trace": "\n".join(places)[-_MOST_CHARACTERS:],
    }
    try:
        if select.select([], [LOG], [], 0)[1]:
            os.write(LOG, json.dumps(line).encode() + b"\n")
    except OSError:
        pass
