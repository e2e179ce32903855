"""A living busy guest's longest pause, while its kernel log is read again and again, and while it is not.

The guest counts on its serial port as fast as it can, and keeps its other processor busy. A pause is the time between
two pieces of what it writes, as the host sees them.
"""

import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from breakglass.agents.pve.forensics.last_words import LAST_WORDS_SECONDS, last_words_probe
from breakglass.agents.pve.forensics.together import ask_together
from breakglass.agents.pve.host.paths import Host
from breakglass.demo.proxmox.world import VMID, World

from ..support.guests import Guest

WATCHED_SECONDS = 10.0
TITLES: Mapping[str, str] = {
    "words_pause": "a busy guest's longest pause while its kernel log is read all the time, ms",
    "words_pause_without": "the same while it is not read, ms",
    "words_seconds": "the slowest reading of it, by the page tables, s (wanted: below 1.5)",
}


def last_words_figures() -> dict[str, float | str]:
    """Return every figure of TITLES."""
    with _busy_guest() as guest:
        without, _ = _watch(guest, reads=False)
        pause, seconds = _watch(guest, reads=True)
    return {
        "words_pause": round(1e3 * pause),
        "words_pause_without": round(1e3 * without),
        "words_seconds": round(seconds, 2),
    }


def _watch(guest: Guest, reads: bool) -> tuple[float, float]:
    """Return the guest's longest pause, and how long the slowest reading took."""
    ends, took = time.monotonic() + WATCHED_SECONDS, [0.0]
    with ThreadPoolExecutor(1) as thread, socket.socket(socket.AF_UNIX) as console:
        console.connect(str(guest.world.root / "console"))
        pause = thread.submit(_longest_pause, console, ends)
        while reads and time.monotonic() < ends:
            took.append(_read_once(guest))
        return pause.result(), max(took)


def _longest_pause(console: socket.socket, ends: float) -> float:
    longest = 0.0
    console.recv(1)
    while (began := time.monotonic()) < ends:
        console.recv(1 << 16)
        longest = max(longest, time.monotonic() - began)
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
