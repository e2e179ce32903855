"""The log: one JSON line for each event, on stdout. Never has a signing key or a body. See docs/logs.md.

A thread behind a bounded queue writes the lines, so a full disk or an unread pipe loses lines but delays no verb and no
shutdown. The thread calls os.write, because the interpreter's own stdout has a lock that a stuck thread would keep.

logging.handlers.QueueHandler is similar, but its listener writes through a stream with that lock, joins its thread
without a deadline when it stops, and prints a traceback for each line that a full queue drops.
"""

import json
import os
import queue
import select
import threading
import time
from collections.abc import Mapping
from contextvars import ContextVar

from . import counts

INFO, WARNING, ERROR = "info", "warning", "error"
EVENTS = {  # each event with its level; a request's level depends on its outcome
    "alert": INFO,
    "background-call-failed": ERROR,
    "chat": INFO,
    "chat-down": ERROR,
    "chat-failed": ERROR,
    "chat-up": INFO,
    "defect": ERROR,
    "host-down": ERROR,
    "host-up": INFO,
    "keep-open-failed": ERROR,
    "library": WARNING,
    "lines-lost": WARNING,
    "notify": INFO,
    "notify-failed": ERROR,
    "notify-late": WARNING,
    "opinion": INFO,
    "out-of-descriptors": ERROR,
    "own-agent-unreadable": ERROR,
    "reload": INFO,
    "reload-rejected": ERROR,
    "request": INFO,
    "start": INFO,
    "turn-stderr": WARNING,
}
# All other outcomes and codes are logged as warnings, because the handler or the host refused the request.
OF_CHAT = ("turn", "attach", "cancel", "list", "replay")
_GOOD = ("done", "running", *OF_CHAT, "accepted", "repeated", "ignored", "paired", "client-gone")
_BAD = ("failed", "unreached", "unknown", "internal")

_MOST_WAITING = 10_000
_STOP_SECONDS = 1.0
_REASON_CHARACTERS = 200
_CODE_CHARACTERS = 64
_AT_ONCE = 1500  # characters of one text, because a pipe takes a line of at most one page without blocking
_waiting: queue.Queue[bytes | None] = queue.Queue(_MOST_WAITING)
_request: ContextVar[dict[str, str] | None] = ContextVar("request", default=None)


class LostLines:
    """Counts the lines lost since the last report of lost lines."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0

    def add(self, count: int) -> None:
        """Add to the count; a negative number subtracts."""
        with self._lock:
            self.count += count


_lost = LostLines()


class Writer(threading.Thread):
    """The thread that writes queued lines to a file descriptor."""

    def __init__(self, fd: int = 1) -> None:
        super().__init__(name="audit", daemon=True)
        self._fd = fd
        self._is_torn = False  # whether a full disk cut the last line, so that the next line must begin with a newline

    def run(self) -> None:
        """Write queued lines until the queue returns None. Before each line, report the lines lost before it."""
        while (line := _waiting.get()) is not None:
            count = _lost.count
            if count and self._put(as_line("lines-lost", {"count": count})):
                _lost.add(-count)
            if not self._put(line):
                _lost.add(1)

    def _put(self, line: bytes) -> bool:
        """Write a line; return whether all of it was written."""
        rest = b"\n" + line if self._is_torn else line
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
                self._is_torn = rest != b""
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Write the remaining lines, for at most one second."""
        try:
            _waiting.put_nowait(None)
        except queue.Full:
            return
        self.join(_STOP_SECONDS)


def begin(client: str, proxy: str, path: str = "") -> None:
    """Begin the log line of a request. This task and the tasks that it starts add fields to it."""
    _request.set({"client": client, "proxy": proxy, "path": path})


def add(key: str = "", reason: str = "", verdict: object = None, host: str = "") -> None:
    """Add fields to the log line of this task's request: signing key, reason, verdict code, host."""
    facts = _request.get()
    if facts is not None:
        code = str(verdict.get("code", ""))[:_CODE_CHARACTERS] if isinstance(verdict, dict) else ""
        found = {"key": key, "reason": reason[:_REASON_CHARACTERS], "code": code, "host": host}
        facts.update({name: value for name, value in found.items() if value})


def request(
    began: float, outcome: str, caller: str = "", verb: str = "", vm: str = "", msg_id: str = "", why: str = ""
) -> None:
    """Record and count a request. `began` is a time.monotonic(); `why` is why its authentication failed."""
    facts, seconds = _request.get() or {}, round(time.monotonic() - began, 4)
    if path := facts.get("path"):
        counts.in_use.add_request(path, outcome, caller, verb)
    level = INFO if outcome in _GOOD else ERROR if outcome in _BAD else WARNING
    line: dict[str, object] = {name: facts.get(name, "") for name in ("client", "proxy")}
    line |= {"outcome": outcome, "why": why, "caller": caller, "key": facts.get("key", ""), "verb": verb, "vm": vm}
    line |= {"id": msg_id, **{name: facts.get(name, "") for name in ("host", "code", "reason")}, "seconds": seconds}
    _queue(as_line("request", line, level))


def note(event: str, **facts: object) -> None:
    """Record an event other than a request, such as a start, a connection or a warning."""
    _queue(as_line(event, facts, WARNING if EVENTS[event] == INFO and facts.get("problems") else ""))


def note_at_once(event: str, **facts: object) -> None:
    """Write a line in a process without the thread. If the log would block, the line is lost."""
    try:
        if select.select([], [1], [], 0)[1]:
            ends = {name: fact[-_AT_ONCE:] if isinstance(fact, str) else fact for name, fact in facts.items()}
            os.write(1, as_line(event, ends))
    except OSError:
        pass


def as_line(event: str, facts: Mapping[str, object], level: str = "") -> bytes:
    """Return a line of the log. Without `level`, the line has the usual level of its event."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = {"time": now, "level": level or EVENTS[event], "event": event, **facts}
    return json.dumps(line, default=str).encode() + b"\n"


def _queue(line: bytes) -> None:
    try:
        _waiting.put_nowait(line)
    except queue.Full:
        _lost.add(1)
