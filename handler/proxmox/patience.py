"""How long a host may take before its answer counts as lost. Pure, because the clock is an argument.

The handler has no table of deadlines. A job's first message is its stage, which has the job's deadline; until that
message arrives, a fixed time applies.
"""

from collections.abc import Mapping

from ..base.budget import FIRST_SECONDS, GRACE_SECONDS, MOST_DEADLINE_SECONDS

BACKOFF = (1, 2, 4, 8, 15, 30)  # seconds between two attempts to reach a host
REFUSAL_BACKOFF = (60, 120, 240, 300)  # the same after a key was not accepted, for at most four logins in ten minutes
SPREAD_SECONDS = 1.0  # the first connections to many hosts are spread over this time
FEW_HOSTS = 10  # up to this number, the handler connects to all hosts immediately


class Patience:
    """The time limit of one request. The host's messages extend `until`."""

    def __init__(self, now: float, first_seconds: float = FIRST_SECONDS) -> None:
        self.seconds = first_seconds
        self._began = now
        self._first_message: float | None = None

    @property
    def until(self) -> float:
        """The time at which the answer counts as lost."""
        return (self._began if self._first_message is None else self._first_message) + self.seconds

    def update(self, message: Mapping[str, object], now: float) -> None:
        """Extend the time limit after a message.

        The job's deadline counts from the first message. That message comes after the job's start, so the handler never
        stops waiting too early, even if the host's clock is wrong.
        """
        if self._first_message is None:
            self._first_message = now
        if message["type"] == "stage":
            self.seconds = min(float(str(message["deadline"])), MOST_DEADLINE_SECONDS) + GRACE_SECONDS


def backoff_seconds(failures: int, chance: float) -> float:
    """Return how long to wait after so many failed attempts. `chance` is a random number from 0 to 1.

    Without `chance`, handlers that lost their host at the same moment would also reconnect at the same moment, and sshd
    would refuse some of them.
    """
    longest = BACKOFF[min(failures, len(BACKOFF)) - 1]
    return longest * (0.5 + chance / 2)


def refusal_seconds(refusals: int, chance: float) -> float:
    """Return how long to wait after a key was not accepted so many times. `chance` is a random number from 0 to 1.

    The key could be added to authorized_keys at any time, but sshd penalises failed logins, and fail2ban bans an
    address after five failed logins in ten minutes.
    """
    return REFUSAL_BACKOFF[min(refusals, len(REFUSAL_BACKOFF)) - 1] * (1 + chance / 2)


def first_pause(hosts: int, chance: float) -> float:
    """Return how long to wait before the first connection to one of `hosts` hosts."""
    return SPREAD_SECONDS * chance if hosts > FEW_HOSTS else 0.0
