"""A guest's memory, read from its QEMU by /proc/PID/mem: the guest does not stop, and no missing page is touched.

A read would allocate a page that QEMU does not have (never used, swapped out, taken by the balloon), so pagemap is
checked first. A read holds QEMU's memory lock for one page at a time, and takes at most MEMORY_READ_BYTES.
"""

import os
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..host.paths import Host
from ..host.qmp import Qmp

PAGE = 4096
MEMORY_READ_BYTES = 64 * 1024
HUGE = 1 << 21
MOST_DATA = 128 << 20  # a kernel has 20 to 40 MiB of data
_PART, _OVERLAP = 1 << 20, PAGE  # bytes of each searched part, because a guest that lies can make the search slow
_PRESENT = 0x80  # the bit for "present" in the last of the eight bytes that pagemap has for a page
IMAGE = 0xFFFFFFFF80000000  # Linux on x86-64 maps its own image into the GiB that begins here
_ENTRY_ADDRESS = 0x000FFFFFFFFFF000  # the address bits in an entry of a page table
_IS_THERE, _IS_WRITABLE, _IS_PAGE, _IS_DATA = 1, 2, 1 << 7, 1 << 63
_LEAST_RAM = 1 << 20
_RAM = re.compile(r"^\s+([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, ram\):", re.MULTILINE)
_CR3 = re.compile(r"\bCR3=([0-9a-f]+) CR4=([0-9a-f]+)")
_FIVE_LEVELS = 1 << 12  # of CR4
_FIRST = (1 << 30) // MEMORY_READ_BYTES
_HOLES = (3 << 30, 2 << 30, 0xE0000000)  # where the RAM below 4 GiB ends in QEMU's machines pc, q35 and old pc


@dataclass(frozen=True)
class Piece:
    """One contiguous piece of the guest's RAM: its physical address, its size and its address in QEMU."""

    address: int
    size: int
    place: int


class GuestMemory:
    """The RAM of a guest, by QEMU's addresses and, once `pieces` are known, by physical ones.

    Each read raises TimeoutError after `until`, a time of time.monotonic().
    """

    def __init__(self, host: Host, pid: int, until: float) -> None:
        self._until = until
        self._memory = os.open(host.proc(pid, "mem"), os.O_RDONLY | os.O_CLOEXEC)
        self._pagemap = os.open(host.proc(pid, "pagemap"), os.O_RDONLY | os.O_CLOEXEC)
        self.pieces: tuple[Piece, ...] = ()

    def read_place(self, place: int, size: int) -> bytes:
        """Return the bytes at QEMU's address; zeros for pages that QEMU does not have."""
        found, end = bytearray(), place + size
        while place < end:
            if time.monotonic() > self._until:
                raise TimeoutError("the time is over")
            some = min(MEMORY_READ_BYTES - place % MEMORY_READ_BYTES, end - place)
            found += self._read_some(place, some)
            place += some
        return bytes(found)

    def _read_some(self, place: int, size: int) -> bytes:
        first, last = place // PAGE, (place + size - 1) // PAGE
        there = os.pread(self._pagemap, 8 * (last - first + 1), 8 * first)[7::8]
        if len(there) == last - first + 1 and min(there) >= _PRESENT:
            return os.pread(self._memory, size, place).ljust(size, b"\0")
        if not there or max(there) < _PRESENT:
            return bytes(size)
        found = bytearray()
        for page in range(first, last + 1):
            start, end = max(place, page * PAGE), min(place + size, (page + 1) * PAGE)
            found += self._read_some(start, end - start) if last > first else bytes(end - start)
        return bytes(found)

    def pages_that_begin(self, word: bytes, until: float) -> Iterator[bytes]:
        """Yield each page of the guest's RAM that begins with a given word, until a time of time.monotonic().

        The first GiB comes first, then the rest from its end, because the kernel takes its early pages from the end.
        """
        for piece in self.pieces:
            starts = range(piece.place, piece.place + piece.size, MEMORY_READ_BYTES)
            for start in (*starts[:_FIRST], *starts[: _FIRST - 1 : -1]):
                if time.monotonic() > until:
                    return
                data = self.read_place(start, MEMORY_READ_BYTES)
                if word[0] in data[::PAGE]:
                    pages = (data[at : at + PAGE] for at in range(0, MEMORY_READ_BYTES, PAGE))
                    yield from (page for page in pages if page.startswith(word))

    def read(self, address: int, size: int) -> bytes:
        """Return the guest's bytes at a physical address; raise ValueError if there is no RAM."""
        for piece in self.pieces:
            if piece.address <= address and address + size <= piece.address + piece.size:
                return self.read_place(piece.place + address - piece.address, size)
        raise ValueError("no RAM is there")


def guess_pieces(host: Host, pid: int) -> Iterator[tuple[Piece, ...]]:
    """Yield where the guest's RAM may be for a QEMU that can't be asked: its largest mapping, in one piece or two."""
    with open(host.proc(pid, "maps"), encoding="ascii", errors="replace") as file:
        ends = [[int(end, 16) for end in line.split()[0].split("-")] for line in file]
    size, place = max((end - start, start) for start, end in ends)
    for hole in _HOLES:
        if size > hole:
            yield Piece(0, hole, place), Piece(1 << 32, size - hole, place + hole)
    yield (Piece(0, size, place),)


@dataclass(frozen=True)
class Root:
    """Where a vCPU's page tables begin, and how many levels they have."""

    address: int
    levels: int


def ask_for_ram(qmp: Qmp) -> tuple[Piece, ...]:
    """Return each piece of the guest's RAM, as QEMU has it."""
    ranges = {(int(first, 16), int(last, 16) + 1) for first, last in _RAM.findall(ask_person(qmp, "info mtree -f"))}
    found = []
    for first, end in sorted(ranges):
        if end - first >= _LEAST_RAM and (place := re.search(r" is (0x[0-9a-f]+)", _place_of(qmp, first))):
            found.append(Piece(first, end - first, int(place[1], 16)))
    return tuple(found)


def _place_of(qmp: Qmp, address: int) -> str:
    return ask_person(qmp, f"gpa2hva {address:#x}")


def ask_person(qmp: Qmp, line: str) -> str:
    """Return QEMU's answer to a command of its human monitor (HMP)."""
    command: dict[str, object] = {"command-line": line}
    return str(qmp.command("human-monitor-command", (), **command))


def ask_for_roots(qmp: Qmp) -> list[Root]:
    """Return the page tables of each vCPU, those of the kernel first.

    A kernel that isolates its page tables has a program's table in the page after its own.
    """
    found = [(int(cr3, 16), int(cr4, 16)) for cr3, cr4 in _CR3.findall(ask_person(qmp, "info registers -a"))]
    roots = [
        Root(cr3 & _ENTRY_ADDRESS & ~behind, 5 if cr4 & _FIVE_LEVELS else 4)
        for behind in (PAGE, 0)
        for cr3, cr4 in found
    ]
    return list(dict.fromkeys(roots))


class PageTables:
    """A kernel's virtual memory, translated by its page tables in the guest's memory."""

    def __init__(self, memory: GuestMemory, root: Root) -> None:
        self._memory = memory
        self._root = root

    def read(self, address: int, size: int) -> bytes:
        """Return the bytes at one of the kernel's addresses; raise ValueError if nothing is mapped there."""
        found = b""
        while len(found) < size:
            at = address + len(found)
            page, length = self._find(at)
            start = at % length
            found += self._memory.read(page + start, min(length - start, size - len(found)))
        return found

    def _find(self, address: int, least: int = 12) -> tuple[int, int]:
        """Return the physical page of an address, and its size; a table's size is that of the memory that it maps."""
        table, shift = self._root.address, 12 + 9 * (self._root.levels - 1)
        while True:
            (entry,) = struct.unpack("<Q", self._memory.read(table + 8 * (address >> shift & 511), 8))
            if not entry & _IS_THERE:
                raise ValueError("the kernel has nothing there")
            if shift == least or (entry & _IS_PAGE and shift <= 30):
                size = 1 << shift
                return entry & _ENTRY_ADDRESS & (-size if shift > least else -PAGE), size
            table, shift = entry & _ENTRY_ADDRESS, shift - 9

    def data_of_kernel(self) -> Iterator[bytes]:
        """Yield the parts of the kernel's image that are writable and not executable, at most MOST_DATA bytes.

        The tables belong to the guest, so they may name any page any number of times.
        """
        runs: list[tuple[int, int, int]] = []
        for start, size, entry in self._pages_of_image():
            if entry & _IS_WRITABLE and entry & _IS_DATA:
                page = entry & _ENTRY_ADDRESS & -size
                first, at, length = runs[-1] if runs else (0, 0, 0)
                if (start, page) == (first + length, at + length):
                    runs[-1] = first, at, length + size
                else:
                    runs.append((start, page, size))
        left = MOST_DATA
        for _, page, size in runs:
            for at in range(page, page + min(size, left), _PART):
                yield self._memory.read(at, min(_PART + _OVERLAP, page + size - at))
            left -= min(size, left)

    def _pages_of_image(self) -> Iterator[tuple[int, int, int]]:
        """Yield the address, the size and the entry of each page of the kernel's image."""
        for number, entry in enumerate(self._entries(self._find(IMAGE, 30)[0])):
            start = IMAGE + number * HUGE
            if entry & _IS_THERE and entry & _IS_PAGE:
                yield start, HUGE, entry
            elif entry & _IS_THERE:
                pages = enumerate(self._entries(entry & _ENTRY_ADDRESS))
                yield from ((start + PAGE * at, PAGE, page) for at, page in pages if page & _IS_THERE)

    def _entries(self, table: int) -> tuple[int, ...]:
        return struct.unpack("<512Q", self._memory.read(table, PAGE))
