"""The ring of Linux's kernel log in a guest's memory: a real kernel's, rings of every shape, and forged ones."""

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from breakglass.agents.pve.forensics.evidence import Evidence
from breakglass.agents.pve.forensics.guest_memory import MOST_DATA, GuestMemory, PageTables, Root
from breakglass.agents.pve.forensics.kernel_log import (
    LogMessage,
    find_cause,
    log_lines,
    parse_ring,
    read_messages,
    rings_in,
)
from breakglass.agents.pve.forensics.verdict import verdict_of

from ..support.rows import each_row, read_rows
from .test_heartbeat_rule import VERDICTS

RECORDED = json.loads((Path(__file__).parent.parent / "data/kernel_log.json").read_text())
PANIC = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000000"


@each_row("recorded", RECORDED)
def test_the_ring_of_a_real_kernel(recorded: dict[str, Any]) -> None:
    """The bytes are from Debian guests, 6.12 and 7.3, after 20,000 messages, of which their rings hold 4,096."""
    memory = {int(place, 16): bytes.fromhex(data) for place, data in recorded["memory"].items()}
    [ring] = rings_in(bytes(64) + bytes.fromhex(recorded["ring"]))
    assert (ring.count, ring.messages) == (4096, 4096)
    messages = read_messages(lambda place, size: memory.get(place, bytes(size))[:size], ring, most=14)
    texts = [*(f"line {number}" for number in range(19991, 20001)), "Remounting filesystem read-only"]
    assert [message.text for message in messages] == [*texts, "line 1", "line 2", "line 3"]
    assert log_lines(messages, 2) == recorded["lines"]
    assert find_cause(messages) == "Remounting filesystem read-only"
    assert [message.number for message in messages] == list(range(messages[0].number, messages[0].number + 14))


# --- a ring that a test writes by the kernel's header ---

COUNT, SIZE = 1 << 7, 1 << 12
DESCRIPTORS, INFOS, TEXT = (0xFFFFFFFF81000000 + (number << 20) for number in range(3))
NUMBERS = (1 << 62) - 1


class Memory:
    """The arrays of a ring: `write` adds a message as printk does."""

    def __init__(self, first: int, start: int = 0, info: int = 88) -> None:
        self.arrays = {DESCRIPTORS: bytearray(24 * COUNT), INFOS: bytearray(info * COUNT), TEXT: bytearray(SIZE)}
        self.info = info
        self.first, self.count, self.at, self.start = first, 0, start, start

    def write(self, text: bytes, state: int = 2) -> None:
        number = self.first + self.count & NUMBERS
        size = 8 + len(text) + -len(text) % 8
        begin = self.at
        if begin // SIZE != (begin + size) // SIZE and (begin + size) % SIZE:
            self.at = (begin // SIZE + 1) * SIZE
        block = struct.pack("<Q", number) + text
        place = self.at % SIZE
        self.arrays[TEXT][place : place + len(block)] = block
        self.at += size
        where = (begin, self.at) if text else (3, 3)
        struct.pack_into("<3Q", self.arrays[DESCRIPTORS], 24 * (number % COUNT), state << 62 | number, *where)
        info = (self.count, 1_500_000_000 * self.count, len(text), 0, 0, 0)
        struct.pack_into("<QQHBBI", self.arrays[INFOS], self.info * (number % COUNT), *info)
        self.count += 1

    def heads(self, *more: int) -> bytes:
        """Return the heads of the ring; kernel 6.9 has one word `more`."""
        tail = self.first + max(0, self.count - COUNT) & NUMBERS
        ids = (2 << 62 | self.first + self.count - 1 & NUMBERS, 2 << 62 | tail)
        return struct.pack(
            f"<{9 + len(more)}Q", 7, DESCRIPTORS, INFOS, *ids, *more, 12, TEXT, self.at, max(self.start, self.at - SIZE)
        )

    def read(self, place: int, size: int) -> bytes:
        for start, data in self.arrays.items():
            if start <= place and place + size <= start + len(data):
                return bytes(data[place - start : place - start + size])
        raise ValueError("nothing is there")


@each_row("first", [3, COUNT - 2, NUMBERS - 3, (1 << 32) - 2])
@each_row("start", [0, SIZE - 24, 5 * SIZE - 40])
@each_row("more, info", [((), 88), ((77,), 88), ((77,), 112)])
def test_a_ring_of_every_shape(first: int, start: int, more: tuple[int, ...], info: int) -> None:
    """Numbers and text can begin again at 0, blocks may not fit at the end, and a message may have no text."""
    memory = Memory(first, start, info)
    texts = [f"message {number} {'x' * (number % 40)}" for number in range(300)]
    for text in texts:
        memory.write(text.encode())
    memory.write(b"")
    ring = parse_ring(memory.heads(*more))
    assert ring
    assert ring.messages == COUNT
    found = [message.text for message in read_messages(memory.read, ring)]
    assert found[-60:] == [*texts[-59:], ""]
    assert found[:-1] == texts[-len(found) + 1 :]  # the text of older ones is overwritten


BYTES = st.tuples(st.sampled_from([DESCRIPTORS, INFOS, TEXT]), st.integers(0, 24 * COUNT - 1), st.integers(0, 255))


@given(st.lists(st.binary(max_size=90), min_size=1, max_size=50), st.lists(BYTES, max_size=60), st.integers(1, 90))
def test_a_guest_that_lies(texts: list[bytes], changed: list[tuple[int, int, int]], count: int) -> None:
    """Whatever is in its memory, the result is a few short lines of plain text, and no error."""
    memory = Memory(NUMBERS - 20)
    for text in texts:
        memory.write(text)
    for place, at, value in changed:
        memory.arrays[place][at] = value
    ring = parse_ring(memory.heads())
    assert ring
    messages = read_messages(memory.read, replace(ring, tail=ring.head - count & NUMBERS))
    lines = log_lines(messages)
    cause = find_cause([LogMessage(7, 1.5, f"Oops: {each.text}") for each in messages])
    assert len(lines) <= 40
    assert cause.isprintable()
    assert all(len(line) <= 10 * 200 + 40 and line.isascii() and line.isprintable() for line in lines), lines


@each_row(("said", "cause"), read_rows("last_lines.yaml", panic=PANIC[:100])["causes"].values())
def test_the_line_that_says_why(said: list[tuple[float, str]], cause: str) -> None:
    found = find_cause([LogMessage(number, at, text) for number, (at, text) in enumerate(said)])
    assert (bool(found), found.startswith(cause)) == (bool(cause), True)


# --- the verdict ---


@each_row("name", VERDICTS)
def test_last_words_decide_nothing(name: str) -> None:
    """The guest chooses its last words, so the code, the advice and the evidence are the same as without them."""
    evidence: Evidence = VERDICTS[name][0]
    without, said = verdict_of(evidence), verdict_of(replace(evidence, cause=PANIC, last_words=(PANIC,)))
    assert (said.code, said.advice) == (without.code, without.advice)
    assert said.sentence.startswith(without.sentence.removesuffix("…"))
    assert said.evidence[: len(without.evidence)] == without.evidence


class Aliased(GuestMemory):
    """A guest with one page, which is a page table whose entries all name the page itself."""

    def __init__(self) -> None:
        self.largest = 0

    def read(self, address: int, size: int) -> bytes:
        self.largest = max(self.largest, size)
        entry = 1 << 63 | address & ~0xFFF | 0x83
        return (
            struct.pack("<Q", entry & ~0x80) if size == 8 else struct.pack("<512Q", *([entry] * 512)) * (size // 4096)
        )


def test_tables_that_name_a_page_again_and_again() -> None:
    """The kernel's GiB is the same page again and again. Only a small part of it is read, little at a time."""
    memory = Aliased()
    data = list(PageTables(memory, Root(0x1000, 4)).data_of_kernel())
    assert (sum(map(len, data)) <= 2 * MOST_DATA, memory.largest <= 2 << 20) == (True, True)
