"""The descriptors that a runner reads from, each with the function that reads it. Standard library only."""

import os
import select
from collections.abc import Callable


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
