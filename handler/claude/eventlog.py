"""A turn's event log: a file that only grows, one event a line, so that an event's number is its line's.

Its writer holds a flock on it for as long as it lives. A log without `done` whose flock is free was left by a writer
that was killed, and whoever notices writes the ending. A line counts once its newline is there.
"""

import fcntl
import os
import re
from collections.abc import Iterable

from .events import Event, encoded

CHUNK = 16 * 1024  # what one client may keep in memory, beside what its socket holds
_SCAN = 256 * 1024
_DONE = re.compile(rb'(?:^|\n)(\{"type":"done",[^\n]*\n)\Z')


def append(fd: int, events: Iterable[Event]) -> None:
    """Write events at the end of a log."""
    write_all(fd, b"".join(map(encoded, events)))


def write_all(fd: int, data: bytes) -> None:
    """Write all the data, in one write where that is possible."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def try_lock(fd: int) -> bool:
    """Take the log's flock; tell whether that was possible."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def ending(code: str, message: str, hint: str, number: int) -> list[Event]:
    """Return the two last events of a turn that had no other end."""
    error: Event = {"type": "error", "n": number, "code": code, "message": message, "hint": hint}
    return [error, {"type": "done", "n": number + 1, "ok": False}]


def finish(path: str, code: str, message: str, hint: str) -> bool:
    """Write the ending of a log whose writer is gone; tell whether it has one now."""
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
            append(fd, ending(code, message, hint, reader.number + 1))
        return True
    finally:
        os.close(fd)


def has_ended(fd: int) -> bool:
    """Tell whether the last line is `done`."""
    return last_line(fd, os.fstat(fd).st_size) != b""


def last_line(fd: int, end: int) -> bytes:
    """Return the line that ends at `end` if it is `done`, which is a short one."""
    tail = min(end, 128)
    match = _DONE.search(os.pread(fd, tail, end - tail))
    return match[1] if match else b""


def read_on(path: str, reader: "Reader") -> bytes:
    """Return what comes next for a reader. Nobody keeps the file open between two looks: whoever goes away in the
    middle of one would leave it so, and the handler has only so many descriptors."""
    reader.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return reader.more()
    finally:
        os.close(reader.fd)


class Reader:
    """Reads a log from after event number `after`, a bounded piece at a time, and never part of a line that may yet be
    torn. `number` is the last event that was read."""

    def __init__(self, fd: int, after: int) -> None:
        self.fd, self.number, self.at = fd, 0, 0
        self.ended = False
        self._after = after
        self._whole = 0  # up to here the lines are complete
        self._scanned = 0

    def more(self) -> bytes:
        """Return what comes next, or nothing while there is nothing. The `done` line comes whatever `after` says."""
        while True:
            if self.at == self._whole and not self._look():
                return self._late_done()
            chunk = os.pread(self.fd, min(CHUNK, self._whole - self.at), self.at)
            shown = self._skip(chunk)
            self.at += len(chunk)
            self.ended = self.at == self._whole and last_line(self.fd, self._whole) != b""
            if shown:
                return shown

    def _look(self) -> bool:
        """Look for the end of a further line."""
        while self.at == self._whole:
            chunk = os.pread(self.fd, _SCAN, self._scanned)
            if not chunk:
                return False
            newline = chunk.rfind(b"\n")
            if newline >= 0:
                self._whole = self._scanned + newline + 1
            self._scanned += len(chunk)
        return True

    def _skip(self, chunk: bytes) -> bytes:
        """Count the lines of a chunk; return what of it comes after those that are not wanted."""
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
        """Return the last line for somebody who has read past it already: a stream always has one."""
        if self.ended and self.number <= self._after:
            self._after = -1
            return last_line(self.fd, self._whole)
        return b""
