"""The events that are counted. Does not depend on Prometheus; server/counters.py does the counting.

Only the thread of the event loop counts, and nothing here waits.
"""

import time
from collections.abc import Mapping, Sequence

from .verbs import VERBS

NOTHING: Mapping[str, float] = {}


class Counts:
    """Receives each event and counts nothing. Used unless [metrics] is configured."""

    def add_request(self, path: str, outcome: str, caller: str = "", verb: str = "") -> None:
        """Count an answered request to a route of the API."""

    def add_captures(self, source: str, taken: int, attached: int, failed: int) -> None:
        """Count the results of the captures that a notification requested."""

    def add_notification(self, to: str, is_sent: bool) -> None:
        """Count a message to a kind of receiver, which has taken it or did not after three tries."""

    def add_turn(self, code: str, tokens: Mapping[str, float] = NOTHING, cost: float = 0.0) -> None:
        """Count a turn that has ended with `ok` or with the code of its error."""

    def add_stages(self, verb: str, stages: Sequence[tuple[str, float]]) -> None:
        """Count how many seconds each stage of a verb took."""


in_use = Counts()


class StageClock:
    """Measures the stages of a request's verb from the host's messages. Counts them when the result arrives.

    A request that attached to a job gets its old messages at once. The times of old messages mean nothing, so they are
    not counted.
    """

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._stage = "" if VERBS[verb].is_job else verb
        self._since = time.monotonic()
        self._found: list[tuple[str, float]] = []

    def see(self, message: Mapping[str, object]) -> None:
        """Take the next message from the host."""
        if message["type"] == "output":
            return
        now = time.monotonic()
        self._found.append((self._stage, now - self._since))
        self._stage, self._since = str(message.get("stage", "")), now
        if message["type"] == "result" and not message.get("attached"):
            in_use.add_stages(self._verb, self._found)
