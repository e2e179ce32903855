"""Reads and writes a turn's event log, an append-only file with one event a line. Line n is event n.

The writer holds a flock on the log for as long as it lives. A log without `done` whose flock is free belongs to a
writer that was killed, and the first reader that notices this writes the ending. A line without its
newline does not count.
"""

import fcntl
import os
import re
from collections.abc import Iterable

from .events import Event, encode_event

CHUNK = 16 * 1024  # the most that one client keeps in memory, beside its socket's buffer
_SCAN = 256 * 1024
_DONE = re.compile(rb'(?:^|\n)(\{"type":"done",[^\n]*\n)\Z')


def append_events(fd: int, events: Iterable[Event]) -> None:
    """Write events at the end of a log."""
    rest = memoryview(b"".join(map(encode_event, events)))
    while rest:
        rest = rest[os.write(fd, rest) :]


def try_lock(fd: int) -> bool:
    """Take the log's flock and return True, or return False when another process holds it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def build_ending(code: str, message: str, hint: str, number: int) -> list[Event]:
    """Return an error and `done`, the two last events of a turn that has no ending of its own."""
    error: Event = {"type": "error", "n": number, "code": code, "message": message, "hint": hint}
    return [error, {"type": "done", "n": number + 1, "ok": False}]


def finish_log(path: str, code: str, message: str, hint: str) -> bool:
    """Write the ending of a log whose writer is gone. Return whether the log has an ending now."""
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    try:
        if has_ended(fd):
            return True
        if not try_lock(fd):
            return False
        reader = Reader(fd, 0)
        while reader.more():
            pass
        if not reader.ended:
            os.ftruncate(fd, reader.at)  # a torn line
            append_events(fd, build_ending(code, message, hint, reader.number + 1))
        return True
    finally:
        os.close(fd)


def has_ended(fd: int) -> bool:
    """Return whether the last line is `done`."""
    return read_done_line(fd, os.fstat(fd).st_size) != b""


def read_done_line(fd: int, end: int) -> bytes:
    """Return the line that ends at `end` if it is `done`, or nothing."""
    tail = min(end, 128)
    match = _DONE.search(os.pread(fd, tail, end - tail))
    return match[1] if match else b""


def read_more(path: str, reader: "Reader") -> bytes:
    """Return what comes next for a reader.

    The file is open only during the call: a client that leaves can't keep it open, and the handler's descriptors are
    limited.
    """
    reader.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return reader.more()
    finally:
        os.close(reader.fd)


class Reader:
    """Reads a log after event number `after`, in pieces of a bounded size, and only complete lines.

    `number` is the last event that was read.
    """

    def __init__(self, fd: int, after: int) -> None:
        self.fd, self.number, self.at = fd, 0, 0
        self.ended = False
        self._after = after
        self._complete = 0  # the end of the last complete line
        self._scanned = 0

    def more(self) -> bytes:
        """Return the next piece, or nothing while there is none. A `done` line comes even when `after` is beyond it."""
        while True:
            if self.at == self._complete and not self._find_newline():
                return self._late_done()
            chunk = os.pread(self.fd, min(CHUNK, self._complete - self.at), self.at)
            piece = self._skip(chunk)
            self.at += len(chunk)
            self.ended = self.at == self._complete and read_done_line(self.fd, self._complete) != b""
            if piece:
                return piece

    def _find_newline(self) -> bool:
        """Look for the end of a further line. Return whether there is one."""
        while self.at == self._complete:
            chunk = os.pread(self.fd, _SCAN, self._scanned)
            if not chunk:
                return False
            newline = chunk.rfind(b"\n")
            if newline >= 0:
                self._complete = self._scanned + newline + 1
            self._scanned += len(chunk)
        return True

    def _skip(self, chunk: bytes) -> bytes:
        """Count the lines of a chunk, and return the part of it that comes after event `after`."""
        begin = 0
        while self.number < self._after:
            newline = chunk.find(b"\n", begin)
            if newline < 0:
                return b""
            begin = newline + 1
            self.number += 1
        self.number += chunk.count(b"\n", begin)
        return chunk[begin:]

    def _late_done(self) -> bytes:
        """Return the `done` line for a reader that asked for events after it: every stream has a last line."""
        if self.ended and self.number <= self._after:
            self._after = -1
            return read_done_line(self.fd, self._complete)
        return b""
