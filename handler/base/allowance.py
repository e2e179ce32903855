"""Limits how much a host may send on a session. Pure: the clock is an argument.

A broken or compromised host must not keep the handler from serving the other hosts.
"""

from collections import Counter

LINE_BYTES = 8 * 1024 * 1024  # the most bytes of a line; the longest line of an honest host agent has 6 MiB
ANSWER_BYTES = 12 * 1024 * 1024  # the most bytes of an answer; an honest one has at most 1 MiB of output and one line
UNASKED_BYTES = 4 * 1024 * 1024  # the most bytes per minute of lines that answer no open request
SESSION_BYTES = 4 * ANSWER_BYTES  # the most bytes of a session's unfinished answers
VALUE_BYTES = 100  # approximate memory of one JSON value

TOO_LONG = f"the host sent more than {ANSWER_BYTES // 2**20} MiB in an answer, or {LINE_BYTES // 2**20} MiB in a line"
UNASKED = f"the host sent more than {UNASKED_BYTES // 2**20} MiB in a minute without a request for it"


def weight(line: bytes | None) -> int:
    """Return roughly how much memory a JSON line takes when parsed. None stands for a line that is too long.

    The line is not parsed for this, because 8 MiB can contain four million lists, which take 300 MiB and a second.
    Brackets and commas inside strings do not count.
    """
    if line is None:
        return ANSWER_BYTES + 1
    outside = line.replace(rb"\\", b"").replace(rb"\"", b"")
    if outside.count(b'"') * VALUE_BYTES < ANSWER_BYTES:  # otherwise split() alone would use too much memory
        outside = b"".join(outside.split(b'"')[::2])
    return len(line) + VALUE_BYTES * sum(map(outside.count, (b"[", b"{", b",")))


class Allowance:
    """What a host may still send on a session."""

    def __init__(self) -> None:
        self._used = Counter[str]()  # bytes by tag; the empty tag is for lines that answer no request
        self._unasked_since = float("-inf")

    def use(self, tag: str, size: int, now: float) -> str:
        """Count bytes for the answer with this tag. Return why they are too many, or an empty text."""
        if not tag and now - self._unasked_since > 60:
            self._used[tag], self._unasked_since = 0, now
        self._used[tag] += size
        if size > ANSWER_BYTES or self._used[tag] > ANSWER_BYTES or self._used.total() > SESSION_BYTES:
            return TOO_LONG
        return "" if tag or self._used[tag] <= UNASKED_BYTES else UNASKED

    def end(self, tag: str) -> None:
        """Stop counting an answer."""
        del self._used[tag]
