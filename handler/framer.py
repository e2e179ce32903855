"""Cuts what claude or a host sends into lines. Pure."""

LINE_BYTES = 16 * 1024 * 1024  # of one line, or of an exec's output; an honest host agent's longest line has 6 MiB


class Framer:
    """Cuts a stream into lines. A line longer than `limit` comes out as None; the lines after it are not affected."""

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
        """Tell whether the line that has begun is longer than `limit` already."""
        return self._size > self._limit

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self.is_too_long:
            self._parts = []
        elif part:
            self._parts.append(part)
