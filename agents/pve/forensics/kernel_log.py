"""Linux's kernel log in a guest's memory, which is the ring of printk since kernel 5.10. Pure.

The ring has descriptors, numbered without an end, which say where each message's text is, and beside each one its
number, time and length (kernel/printk/printk_ringbuffer.h). A guest that has been up for long has overwritten its
first messages, so nothing here looks for those. The guest controls its memory, so this module reads the ring as if the
guest lied.
"""

import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from ..grammar import escape

MESSAGES = 400  # the newest messages, in which the cause is looked for
LAST_LINES = 40
LINE_OF_LOG_CHARS = 200
LOG_CAUSE_CHARS = 100
LOG_CAUSE_SECONDS = 600.0  # a message that is this much older than the last one did not stop the guest

_NUMBERS = (1 << 62) - 1  # the bits of a descriptor's number; its two upper bits are its state
_COMMITTED = (1, 2)  # the states of a message that can be read
_KERNEL = 1 << 63
_LEAST_BITS, _MOST_BITS = 7, 20  # the least and the most bits in the number of descriptors
_BITS_OF_TEXT = 5  # the text has this many more bits, because the kernel expects messages of 32 bytes
_MAY_BEGIN = re.compile(rb"[\x07-\x14]")
_RING = struct.Struct("<12Q")
RING_BYTES = _RING.size
_DESCRIPTOR = struct.Struct("<3Q")
_INFO = struct.Struct("<QQH")
# The size of a message's info. It is larger in a kernel that keeps the program of each message, as Debian's 7.3 does
# (CONFIG_PRINTK_EXECUTION_CTX).
_INFO_BYTES = (88, 112)
_FITTING = 8  # so many messages decide the size
_MOST_TEXT = 4096
# Words that say why a guest hangs. Each part has a limit, because a guest that lies can have 400 lines of 4,096
# characters that nearly match, which took 13 s.
_CAUSES = re.compile(
    r"Kernel panic - not syncing|Out of memory: Killed process|Memory cgroup out of memory: Killed process"
    r"|watchdog: BUG: |soft lockup|hard LOCKUP|blocked for more than \d+ seconds"
    r"|rcu_\w{1,40} (?:self-)?detected |BUG: |Oops: |general protection fault|Remounting filesystem read-only"
    r"|I/O error, dev |EXT4-fs error|XFS [^:]{0,40}: .{0,60}[Ss]hut|BTRFS (?:error|critical)|Unable to mount root fs"
)

Read = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Ring:
    """The heads of the ring: where its arrays are, by the kernel's addresses, and which messages it has."""

    count: int
    descriptors: int
    infos: int
    head: int
    tail: int
    text: int
    size: int

    @property
    def messages(self) -> int:
        """How many messages it has."""
        return (self.head - self.tail & _NUMBERS) + 1


@dataclass(frozen=True)
class LogMessage:
    """One message: its number since the boot, seconds since then, and its text."""

    number: int
    seconds: float
    text: str


def rings_in(data: bytes) -> Iterator[Ring]:
    """Yield what may be the heads of a ring, in a part of the kernel's memory."""
    for found in _MAY_BEGIN.finditer(data[::8]):
        at = 8 * found.start()
        if data[at + 1 : at + 8] == bytes(7) and (ring := parse_ring(data[at : at + _RING.size])):
            yield ring


def parse_ring(data: bytes) -> Ring | None:
    """Return the heads of a ring, None if the bytes are not a ring. Kernel 6.9 has put a word into the middle."""
    bits, descriptors, infos, head, tail, *rest = _RING.unpack(data.ljust(_RING.size, b"\0"))
    if not _LEAST_BITS <= bits <= _MOST_BITS or min(descriptors, infos) < _KERNEL:
        return None
    for size, text, text_head, text_tail in (rest[0:4], rest[1:5]):
        if size != bits + _BITS_OF_TEXT or text < _KERNEL or not 0 < text_head - text_tail & (1 << 64) - 1 <= 1 << size:
            continue
        ring = Ring(1 << bits, descriptors, infos, head & _NUMBERS, tail & _NUMBERS, text, 1 << size)
        return ring if ring.messages <= ring.count else None
    return None


def read_messages(read: Read, ring: Ring, most: int = MESSAGES) -> list[LogMessage]:
    """Return the last messages, oldest first. `read` returns what the kernel has at an address, or raises ValueError.

    It leaves out a message that is being written and a message that does not fit into its ring. If `read` raises
    TimeoutError, it returns what it has read by then.
    """
    found: list[LogMessage] = []
    info_bytes = max(_INFO_BYTES, key=lambda size: _count_fitting(read, ring, size))
    for back in range(min(ring.messages, most)):
        number = ring.head - back & _NUMBERS
        slot = number % ring.count
        try:
            state, begin, end = _DESCRIPTOR.unpack(read(ring.descriptors + _DESCRIPTOR.size * slot, _DESCRIPTOR.size))
            if state & _NUMBERS != number or state >> 62 not in _COMMITTED:
                continue
            seq, ns, length = _INFO.unpack(read(ring.infos + info_bytes * slot, _INFO.size))
            found.append(LogMessage(seq, ns / 1e9, _read_block(read, ring, number, begin, end, length)))
        except ValueError:
            continue
        except TimeoutError:
            break
    return found[::-1]


def _count_fitting(read: Read, ring: Ring, info_bytes: int) -> int:
    """Return how many of the last messages follow the one before by their number, if their infos have a given size."""
    slots = [(ring.head - back) % ring.count for back in range(min(ring.messages, _FITTING))]
    try:
        numbers = [struct.unpack("<Q", read(ring.infos + info_bytes * slot, 8))[0] for slot in slots]
    except (ValueError, TimeoutError):
        return 0
    return sum(later == earlier + 1 for later, earlier in pairwise(numbers))


def _read_block(read: Read, ring: Ring, number: int, begin: int, end: int, length: int) -> str:
    if begin & 1:  # a message without text has no block
        return ""
    start, stop = begin % ring.size, end % ring.size
    if begin // ring.size != end // ring.size and stop:  # the text did not fit at the end, so it begins the ring
        start = 0
    block = read(ring.text + start, min(8 + length, _MOST_TEXT))
    if struct.unpack("<Q", block[:8])[0] & _NUMBERS != number:
        raise ValueError("the block belongs to another message")
    return block[8:].decode("utf-8", "replace")


def log_lines(messages: list[LogMessage], most: int = LAST_LINES) -> list[str]:
    """Return the last lines, as `dmesg` shows them, each escaped and cut."""
    lines = [(each.seconds, line) for each in messages[-most:] for line in _split(each.text)[-most:]]
    return [f"[{seconds:12.6f}] {escape(line, LINE_OF_LOG_CHARS)}" for seconds, line in lines[-most:]]


def _split(text: str) -> list[str]:
    return text.rstrip("\n").split("\n")


def find_cause(messages: list[LogMessage]) -> str:
    """Return the last line that says why a guest hangs, escaped and shortened; an empty text if no line says it."""
    since = messages[-1].seconds - LOG_CAUSE_SECONDS if messages else 0.0
    lines = [line for each in messages if each.seconds >= since for line in _split(each.text)]
    causes = (line for line in reversed(lines) if _CAUSES.search(line) and not line.startswith("---["))
    return escape(next(causes, ""), LOG_CAUSE_CHARS)
