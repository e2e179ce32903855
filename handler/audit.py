"""One JSON line a request on stdout: time, caller, verb, vm, id, outcome, seconds. No secret, no body.

Written by a thread behind a bounded queue: a full disk or a pipe that nobody reads loses lines, never a verb.
"""

import json
import logging
import logging.handlers
import queue
import sys
import time
from typing import TextIO

_MOST_WAITING = 10_000
_log = logging.getLogger("breakglass")


class _Dropping(logging.handlers.QueueHandler):
    """A queue that drops what does not fit instead of waiting or complaining."""

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            pass


def start(stream: TextIO = sys.stdout) -> logging.handlers.QueueListener:
    """Send the log to `stream` from a thread; stop() the returned listener to write what is left."""
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(_MOST_WAITING)
    writer = logging.StreamHandler(stream)
    writer.setFormatter(logging.Formatter("%(message)s"))
    listener = logging.handlers.QueueListener(waiting, writer)
    _log.handlers = [_Dropping(waiting)]
    _log.setLevel(logging.INFO)
    _log.propagate = False
    listener.start()
    return listener


def request(began: float, outcome: str, caller: str = "", verb: str = "", vm: str = "", msg_id: str = "") -> None:
    """Record one request; `began` is its time.monotonic()."""
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "caller": caller,
        "verb": verb[:32],
        "vm": vm[:32],
        "id": msg_id,
        "outcome": outcome,
        "seconds": round(time.monotonic() - began, 4),
    }
    _log.info(json.dumps(line))


def note(event: str, **facts: object) -> None:
    """Record something that is not a request: a start, a connection, a warning."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    _log.info(json.dumps({"time": now, "event": event, **facts}, default=str))
