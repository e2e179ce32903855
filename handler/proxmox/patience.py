"""How long the host may take to answer before its answer counts as lost. Pure: the clock is an argument.

The handler has no table of deadlines. A job's first message is its stage, which has the job's deadline; until that
message arrives, a fixed time applies.
"""

from collections.abc import Mapping

from ..base.budget import FIRST_SECONDS, GRACE_SECONDS, MOST_DEADLINE_SECONDS

BACKOFF = (1, 2, 4, 8, 15, 30)  # seconds between two attempts to reach a host
REFUSAL_BACKOFF = (60, 120, 240, 300)  # after a key was not accepted: at most four logins in ten minutes
SPREAD_SECONDS = 1.0  # over which the first connections to many hosts are spread
FEW_HOSTS = 10  # to which the handler connects at once


class Patience:
    """The time that one request has. The host's messages extend `until`."""

    def __init__(self, now: float, first_seconds: float = FIRST_SECONDS) -> None:
        self.seconds = first_seconds
        self._began = now
        self._first_message: float | None = None

    @property
    def until(self) -> float:
        """The time at which the answer counts as lost."""
        return (self._began if self._first_message is None else self._first_message) + self.seconds

    def update(self, message: Mapping[str, object], now: float) -> None:
        """Extend the time for a message.

        The job's deadline counts from the first message. That is later than the job's start, so the handler never
        gives up too early, whatever the host's clock says.
        """
        if self._first_message is None:
            self._first_message = now
        if message["type"] == "stage":
            self.seconds = min(float(str(message["deadline"])), MOST_DEADLINE_SECONDS) + GRACE_SECONDS


def backoff_seconds(failures: int, chance: float) -> float:
    """Return how long to wait after so many failed attempts. `chance` is a random number from 0 to 1.

    Without it, handlers that lost their host at the same moment would reconnect at the same moment, and sshd would
    turn them away.
    """
    longest = BACKOFF[min(failures, len(BACKOFF)) - 1]
    return longest * (0.5 + chance / 2)


def refusal_seconds(refusals: int, chance: float) -> float:
    """Return how long to wait after a key was not accepted so many times. `chance` is a random number from 0 to 1.

    The key's line may be written any minute. But sshd penalises failed logins, and fail2ban bans an address after five
    in ten minutes.
    """
    return REFUSAL_BACKOFF[min(refusals, len(REFUSAL_BACKOFF)) - 1] * (1 + chance / 2)


def first_pause(hosts: int, chance: float) -> float:
    """Return how long to wait before the first connection to one of so many hosts."""
    return SPREAD_SECONDS * chance if hosts > FEW_HOSTS else 0.0
