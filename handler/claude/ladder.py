"""The signals that end claude, from a polite one to SIGKILL. Standard library only, for the runner."""

import os
import signal
import time
from collections.abc import Callable

from .processes import send_signal

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
