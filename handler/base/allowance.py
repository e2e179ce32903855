"""How much a host may send on a session. Pure: the clock is an argument.

A host that is broken, or that someone has taken over, must not keep the handler from the other hosts.
"""

from collections import Counter

LINE_BYTES = 8 * 1024 * 1024  # of a line; an honest host agent's longest line has 6 MiB
ANSWER_BYTES = 12 * 1024 * 1024  # of one answer; an honest one has 1 MiB of output, and its last line
UNASKED_BYTES = 4 * 1024 * 1024  # in a minute, of lines that answer no request, such as a late answer
SESSION_BYTES = 4 * ANSWER_BYTES  # of all answers that have begun
VALUE_BYTES = 100  # of memory that a value of JSON takes, about

TOO_LONG = f"the host sent more than {ANSWER_BYTES // 2**20} MiB in an answer, or {LINE_BYTES // 2**20} MiB in a line"
UNASKED = f"the host sent more than {UNASKED_BYTES // 2**20} MiB in a minute without a request for it"


def weight(line: bytes | None) -> int:
    """Return about how much memory a line of JSON takes when it is parsed; None stands for a line that is too long.

    This is known before it is parsed: 8 MiB can have four million lists, which take 300 MiB and a second. In a string,
    a bracket or a comma is text.
    """
    if line is None:
        return ANSWER_BYTES + 1
    outside = line.replace(rb"\\", b"").replace(rb"\"", b"")
    if outside.count(b'"') * VALUE_BYTES < ANSWER_BYTES:  # the parts would take memory too
        outside = b"".join(outside.split(b'"')[::2])
    return len(line) + VALUE_BYTES * sum(map(outside.count, (b"[", b"{", b",")))


class Allowance:
    """What a host may still send on a session."""

    def __init__(self) -> None:
        self._used = Counter[str]()  # by tag; the empty one stands for what answers no request
        self._unasked_since = float("-inf")

    def use(self, tag: str, size: int, now: float) -> str:
        """Count bytes of the answer with this tag, or of no answer; return why they are too many, or an empty text."""
        if not tag and now - self._unasked_since > 60:
            self._used[tag], self._unasked_since = 0, now
        self._used[tag] += size
        if size > ANSWER_BYTES or self._used[tag] > ANSWER_BYTES or self._used.total() > SESSION_BYTES:
            return TOO_LONG
        return "" if tag or self._used[tag] <= UNASKED_BYTES else UNASKED

    def end(self, tag: str) -> None:
        """Stop counting an answer."""
        del self._used[tag]
