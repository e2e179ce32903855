"""How long the host may take to answer before the connection counts as dead. Pure: the clock is an argument.

The handler keeps no table of deadlines. A job's first message is its stage, which tells the job's own deadline; until
that arrives, a fixed time is allowed.
"""

from collections.abc import Mapping

from ..verbs import VERBS

FIRST_SECONDS = 25.0  # until the first message: a read takes 4 s at most, and a job says its stage within 5 s
BACKOFF = (1, 2, 4, 8, 15, 30)  # seconds between two attempts to reach a host
GRACE_SECONDS = 20.0  # beyond the deadline that the host told
UNTOLD_SECONDS = 1200.0  # for a job that tells no deadline: an older host agent's, or one that runs as a single exec


class Patience:
    """The time that one request has. `until` moves with what the host says."""

    def __init__(self, now: float, first_seconds: float = FIRST_SECONDS) -> None:
        self.seconds = first_seconds
        self._begun = now
        self._heard: float | None = None

    @property
    def until(self) -> float:
        """The time at which the answer counts as lost."""
        return (self._begun if self._heard is None else self._heard) + self.seconds

    def hear(self, message: Mapping[str, object], now: float) -> None:
        """Take a message into account. The deadline counts from the first one: a later start than the job's own, so
        that nothing is given up too early, whatever the host's clock says."""
        if self._heard is None:
            self._heard, self.seconds = now, UNTOLD_SECONDS
        if message["type"] == "stage":
            self.seconds = float(str(message["deadline"])) + GRACE_SECONDS


def exec_seconds(line: str) -> float:
    """Return how long a line may take as one exec, whose messages all come at its end."""
    verb = VERBS.get(line.split(" ", 1)[0])
    return UNTOLD_SECONDS if verb is not None and verb.is_job else FIRST_SECONDS


def backoff_seconds(failures: int, chance: float) -> float:
    """Return how long to wait after so many failed attempts. `chance` is a random number from 0 to 1: handlers that
    lost their host at the same moment must not come back at the same moment, or sshd turns them away."""
    longest = BACKOFF[min(failures, len(BACKOFF)) - 1]
    return longest * (0.5 + chance / 2)
