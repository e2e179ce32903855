"""The answers that callers leave unread. At a caller's limit, its oldest connection with unread bytes is closed.

A reader that asks for old pictures and reads none of them would otherwise fill the handler's memory. Its newest
connections stay, so a slow reader gets its last answers.
"""

from typing import Protocol

MOST_BYTES = 32 * 1024 * 1024  # of one caller; a job's picture makes an answer of 2.8 MB at most


class Receiver(Protocol):
    """A connection to which an answer is being sent."""

    def unread_bytes(self) -> int:
        """Return how many bytes wait for the client."""

    def give_way(self) -> None:
        """Close it, and free what it holds."""


class Unread:
    """The connections with unread bytes, by caller, the oldest first."""

    def __init__(self) -> None:
        self._held: dict[str, dict[Receiver, None]] = {}

    def add(self, caller: str, connection: Receiver) -> None:
        """Count a connection from now on; at the caller's limit, close its oldest ones, and this one last."""
        held = self._held.setdefault(caller, {})
        held[connection] = None
        while len(held) > 1 and sum(each.unread_bytes() for each in held) > MOST_BYTES:
            oldest = next(iter(held))
            del held[oldest]
            oldest.give_way()

    def remove(self, caller: str, connection: Receiver) -> None:
        """Stop counting a connection."""
        held = self._held.get(caller, {})
        held.pop(connection, None)
        if not held:
            self._held.pop(caller, None)
