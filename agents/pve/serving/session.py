"""The resident session: a process that takes one request a line, for all VMs of its key.

It is single-threaded and never waits for anything but its descriptors. Code and data are in memory, so it answers while
the host's disks hang.
"""

import json
import os
import re
import select
from collections import deque

from ..grammar import LINE_CHARS, Malformed, parse_line
from ..host.paths import Key, boottime
from ..host.process import lock_memory, process_start
from ..reading.reads import Message
from ..words import FAILED, MUTATING
from .serve import Agent, refuse

MOST_TASKS = 64  # with more tasks, further reads wait; power verbs begin at once
MOST_WAITING = 1024  # reads
MOST_UNSENT = 32 * 1024 * 1024
MOST_READ_UNSENT = 2 * 1024 * 1024  # with more unsent bytes, further reads wait, so that a power verb's lines need not
MOST_URGENT = 256  # the most tasks of all kinds; a further task is refused
READ_BYTES = 64 * 1024  # at a time
WAKE_SECONDS = 5.0  # the longest time between two looks at the input
URGENT = (*MUTATING, "where", "ping")  # `where` is urgent because a power verb waits for its answer
_TAGGED = re.compile(r"([0-9]{1,9}) (.*)", re.ASCII)


class Session:
    """stdin and stdout of one SSH channel: tagged lines in, tagged JSON lines out."""

    def __init__(self, key: Key, bundle: str) -> None:
        self._unsent = bytearray()
        self._unread = b""
        self._urgent: deque[tuple[str, str]] = deque()
        self._reads: deque[tuple[str, str]] = deque()
        self._open = True
        self._empty_at = process_start()  # when the input was last known to be empty
        self._sent_since = self._empty_at  # the last input was sent after this time
        self._agent = Agent(key, bundle, self._send)
        os.set_blocking(1, False)

    def run(self) -> None:
        """Serve until stdin ends; the jobs that were started continue."""
        lock_memory()
        while self._open:
            writing = [1] if self._unsent else []
            timeout = 0.0 if self._can_read else self._agent.timeout(WAKE_SECONDS)
            ready, writable, _ = select.select([0, *self._agent.descriptors()], writing, [], timeout)
            if 0 in ready:
                self._read_input()
            else:
                self._empty_at = boottime()
            self._begin_lines()
            self._agent.poll(set(ready))
            if writable or self._unsent:
                self._flush()

    def _read_input(self) -> None:
        self._sent_since, now = self._empty_at, boottime()
        chunk = os.read(0, READ_BYTES)
        if len(chunk) < READ_BYTES:  # that was all
            self._empty_at = now
        self._open = bool(chunk)
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        if len(self._unread) > LINE_CHARS:
            self._open = False
        for line in lines:
            self._queue(line.decode("utf-8", "replace"))

    def _queue(self, line: str) -> None:
        match = _TAGGED.fullmatch(line)
        tag, command = match.groups() if match else ("", line)
        if command.partition(" ")[0] in URGENT and len(self._agent.tasks) + len(self._urgent) < MOST_URGENT:
            self._urgent.append((tag, command))
        elif command.partition(" ")[0] not in URGENT and len(self._reads) < MOST_WAITING:
            self._reads.append((tag, command))
        else:
            sentence = "too many requests already wait on this host; nothing was done"
            for message in refuse(FAILED, "agent-failed", sentence, "status"):
                self._send(tag, message)

    @property
    def _can_read(self) -> bool:
        return bool(self._reads) and len(self._agent.tasks) < MOST_TASKS and len(self._unsent) < MOST_READ_UNSENT

    def _begin_lines(self) -> None:
        """Begin the requests that change power or show that the host answers; then reads, while there is room."""
        while self._urgent:
            self._agent.submit(*self._urgent.popleft(), self._sent_since)
        while self._can_read:
            self._agent.submit(*self._reads.popleft(), self._sent_since)

    def _send(self, tag: str, message: Message) -> None:
        self._unsent += json.dumps({"tag": tag, **message}).encode() + b"\n"
        if len(self._unsent) > MOST_UNSENT:
            self._open = False  # the client does not read, and its next session finds the jobs by their ids

    def _flush(self) -> None:
        try:
            del self._unsent[: os.write(1, self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._open = False


def opens_session(key: Key, line: str) -> bool:
    """Tell whether a line opens a resident session for this key; `vm=` may name one of its VMs."""
    try:
        request = parse_line(line)
    except Malformed:
        return False
    return request.verb == "session" and (request.vm is None or request.vm in key.vms)
