"""Splits the output of claude or of a host into lines. Pure."""

from collections import deque

LINE_BYTES = 16 * 1024 * 1024  # the most bytes of a line; lines from a host have their own limit


class Framer:
    """Cuts a stream into lines. A line longer than `limit` is returned as None; later lines are not affected."""

    def __init__(self, limit: int = LINE_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """Return the lines that this chunk completes, without their newlines."""
        *complete, rest = chunk.split(b"\n")
        lines = []
        for part in complete:
            self._add(part)
            lines.append(None if self.is_too_long else b"".join(self._parts))
            self._parts, self._size = [], 0
        self._add(rest)
        return lines

    @property
    def is_too_long(self) -> bool:
        """Return whether the incomplete line is already longer than `limit`."""
        return self._size > self._limit

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self.is_too_long:
            self._parts = []
        elif part:
            self._parts.append(part)


class Inflow:
    """Pieces of a stream. They are split only when lines are taken, because splitting a large piece takes time."""

    def __init__(self, limit: int) -> None:
        self._framer = Framer(limit)
        self._pieces: deque[bytes] = deque()
        self._lines: deque[bytes | None] = deque()

    def __bool__(self) -> bool:
        return bool(self._pieces or self._lines)

    def add(self, piece: bytes) -> None:
        """Keep a piece."""
        self._pieces.append(piece)

    def take(self, most: int) -> list[bytes | None]:
        """Return at most `most` lines of one piece; None stands for a line that is too long, even if incomplete."""
        if self._pieces and not self._lines:
            self._lines.extend(self._framer.feed(self._pieces.popleft()))
            if self._framer.is_too_long:
                self._lines.append(None)
        return [self._lines.popleft() for _ in range(min(most, len(self._lines)))]

    def clear(self) -> None:
        """Keep nothing."""
        self._pieces.clear()
        self._lines.clear()
