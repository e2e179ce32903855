"""A living busy guest's longest pause, while its kernel log is read again and again, and while it is not.

The guest counts on its serial port as fast as it can, and keeps its other processor busy. A pause is the time between
two pieces of what it writes, as the host sees them. A busy machine makes the guest pause, too, so short looks with and
without the reading come in pairs, in turns the one and the other first, and the differences in the pairs are told with
their spread.
"""

import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median, quantiles

from breakglass.agents.pve.forensics.last_words import LAST_WORDS_SECONDS, last_words_probe
from breakglass.agents.pve.forensics.together import ask_together
from breakglass.agents.pve.host.paths import Host
from breakglass.demo.proxmox.world import VMID, World

from ..support.guests import Guest

PAIRS = 12
WATCHED_SECONDS = 2.0  # in each half of a pair
TITLES: Mapping[str, str] = {
    "words_pause": f"a busy guest's longest pause in {WATCHED_SECONDS:g} s while its log is read, median, ms",
    "words_pause_without": "the same while it is not read, ms",
    "words_pause_more": f"the difference in {PAIRS} pairs, median (and the middle half of them), ms",
    "words_seconds": "the slowest reading of it, by the page tables, s (wanted: below 1.5)",
}


def last_words_figures() -> dict[str, float | str]:
    """Return every figure of TITLES. A pair takes WATCHED_SECONDS twice, and at most one reading more."""
    pauses: dict[bool, list[float]] = {True: [], False: []}
    took = [0.0]
    with _busy_guest() as guest, socket.socket(socket.AF_UNIX) as console:
        console.connect(str(guest.world.root / "console"))
        for number in range(PAIRS):
            for reads in (number % 2 == 0, number % 2 == 1):
                pauses[reads].append(1e3 * _watch(guest, console, took if reads else None))
    more = [read - unread for read, unread in zip(pauses[True], pauses[False], strict=True)]
    low, middle, high = quantiles(more)
    return {
        "words_pause": round(median(pauses[True])),
        "words_pause_without": round(median(pauses[False])),
        "words_pause_more": f"{middle:+.0f} ({low:+.0f} to {high:+.0f})",
        "words_seconds": round(max(took), 2),
    }


def _watch(guest: Guest, console: socket.socket, took: list[float] | None) -> float:
    """Return the guest's longest pause; with `took`, read its log meanwhile and add how long each reading took."""
    ends = time.monotonic() + WATCHED_SECONDS
    with ThreadPoolExecutor(1) as thread:
        pause = thread.submit(_longest_pause, console, ends)
        while took is not None and time.monotonic() < ends:
            took.append(_read_once(guest))
        return pause.result()


def _longest_pause(console: socket.socket, ends: float) -> float:
    """Return the longest pause until `ends`; a guest that says nothing pauses until then."""
    longest, last = 0.0, time.monotonic()
    while (left := ends - time.monotonic()) > 0:
        console.settimeout(left)
        with suppress(TimeoutError):
            console.recv(1 << 16)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    return longest


def _read_once(guest: Guest) -> float:
    """Read the guest's kernel log, as a capture does; return how long that took."""
    probe = last_words_probe(Host(VMID, str(guest.world.root)), guest.world.pid, LAST_WORDS_SECONDS)
    [reply] = ask_together(probe, time.monotonic() + 2 * LAST_WORDS_SECONDS)
    assert reply.facts["last_words"], reply
    return reply.seconds


@contextmanager
def _busy_guest() -> Iterator[Guest]:
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        world = World(Path(directory))
        guest = Guest(world, "counts")
        try:
            guest.boot()
            yield guest
        finally:
            world.close()
