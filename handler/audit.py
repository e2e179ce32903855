"""One JSON line a request on stdout: time, caller, verb, vm, id, outcome, seconds. No secret, no body.

A thread behind a bounded queue writes them: a full disk or an unread pipe loses lines, and stops no verb and no
shutdown. It calls os.write, because the interpreter's own stdout has a lock that a stuck thread would keep.

logging.handlers.QueueHandler is nearly this. Its listener writes through a stream with that lock, joins its thread
without a deadline when it stops, and prints a traceback for each line that a full queue drops.
"""

import json
import os
import queue
import threading
import time

_MOST_WAITING = 10_000
_STOP_SECONDS = 1.0
_waiting: queue.Queue[bytes | None] = queue.Queue(_MOST_WAITING)


class Writer(threading.Thread):
    """The thread that writes what is waiting to a descriptor."""

    def __init__(self, fd: int = 1) -> None:
        super().__init__(name="audit", daemon=True)
        self._fd = fd

    def run(self) -> None:
        """Write queued lines until there is None in the queue."""
        is_torn = False  # a full disk has cut a line: the next one begins a line of its own
        while (line := _waiting.get()) is not None:
            rest = b"\n" + line if is_torn else line
            try:
                while rest:
                    rest = rest[os.write(self._fd, rest) :]
                    is_torn = rest != b""
            except OSError:
                pass

    def stop(self) -> None:
        """Write what is left, as far as that goes in a second."""
        try:
            _waiting.put_nowait(None)
        except queue.Full:
            return
        self.join(_STOP_SECONDS)


def request(began: float, outcome: str, caller: str = "", verb: str = "", vm: str = "", msg_id: str = "") -> None:
    """Record one request; `began` is its time.monotonic()."""
    seconds = round(time.monotonic() - began, 4)
    _write({"caller": caller, "verb": verb, "vm": vm, "id": msg_id, "outcome": outcome, "seconds": seconds})


def note(event: str, **facts: object) -> None:
    """Record something that is not a request: a start, a connection, a warning."""
    _write({"event": event, **facts})


def _write(line: dict[str, object]) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        _waiting.put_nowait(json.dumps({"time": now, **line}, default=str).encode() + b"\n")
    except queue.Full:
        pass
