"""What a runner reads from, writes to and signals, without ever blocking. Standard library only."""

import ctypes
import os
import select
import signal
import time
from collections.abc import Callable

from .processes import send_signal

# --- The descriptors that a runner reads from, each with the function that reads it. Standard library only ---


class Readers:
    """Waits for several descriptors and calls the reader of each that has data or was closed."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], None]] = {}

    def add(self, fd: int, reader: Callable[[], None]) -> None:
        """Call `reader` whenever `fd` has data or was closed."""
        os.set_blocking(fd, False)
        self._readers[fd] = reader
        self._poll.register(fd, select.POLLIN | select.POLLHUP)

    def remove(self, fd: int) -> None:
        """Stop watching a descriptor."""
        self._poll.unregister(fd)
        del self._readers[fd]

    def poll_once(self, seconds: float) -> bool:
        """Read what arrives within `seconds`; return whether there was anything."""
        ready = [(fd, self._readers[fd]) for fd, _ in self._poll.poll(seconds * 1000)]
        for fd, reader in ready:
            # A reader before it may have removed it, and a new descriptor may have its number.
            if self._readers.get(fd) is reader:
                reader()
        return bool(ready)


# --- The runner's end of its socket to the handler: no read or write of it can block ---
#
# The handler holds this end too, and could change the socket's flags and options. So each call itself says that it
# must not block. It calls libc, because a turn would wait until the module `socket` is loaded.

_MSG_DONTWAIT, _MSG_NOSIGNAL = 0x40, 0x4000  # recv(2), send(2)

_libc = ctypes.CDLL(None, use_errno=True)


def receive(fd: int, most: int) -> bytes:
    """Return what a socket has, at most so many bytes. Raises OSError, as BlockingIOError when it has nothing."""
    buffer = ctypes.create_string_buffer(most)
    count = _check(_libc.recv(fd, buffer, ctypes.c_size_t(most), _MSG_DONTWAIT))
    return buffer.raw[:count]


def send(fd: int, data: bytes) -> None:
    """Send bytes, or nothing and raise OSError."""
    _check(_libc.send(fd, data, ctypes.c_size_t(len(data)), _MSG_DONTWAIT | _MSG_NOSIGNAL))


def _check(returned: int) -> int:
    if returned < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return returned


# --- The signals that end claude, from a polite one to SIGKILL. Standard library only, for the runner ---

Rungs = tuple[tuple[int, float], ...]  # a signal, and the seconds until the next one

LADDER: Rungs = ((signal.SIGINT, 3.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 0.1))
FAST_LADDER: Rungs = (
    (signal.SIGINT, 1.0),
    (signal.SIGTERM, 0.5),
    (signal.SIGKILL, 0.1),
)  # streams end 5 s after SIGTERM


class SignalLadder:
    """Sends the signals of a ladder one after the other, and repeats the last one."""

    def __init__(self) -> None:
        self._rungs: list[tuple[int, float]] = []
        self._next_at = 0.0

    def begin(self, rungs: Rungs) -> None:
        """Begin to climb. When a ladder was begun before, go on with these rungs, without another SIGINT."""
        self._rungs = [rung for rung in rungs if not self._rungs or rung[0] != signal.SIGINT]
        self._next_at = min(self._next_at, time.monotonic())

    def climb(self, now: float, find_claude: Callable[[], int]) -> None:
        """Send the signal that is due: SIGINT to claude alone, every other one to all descendants of this process."""
        if not self._rungs or now < self._next_at:
            return
        number, seconds = self._rungs[0]
        if len(self._rungs) > 1:
            self._rungs.pop(0)
        self._next_at = now + seconds
        send_signal(os.getpid(), number, find_claude() if number == signal.SIGINT else None)
