"""The handler's nested time limits, in seconds. Each outer limit is its inner limit and some slack.

tests/unit/test_budget.py compares these limits with each other, with those of the host agent, and with those defined
where they are used.
"""

from ..agents.pve.budget import RESULT_SECONDS, WHERE_SECONDS
from ..agents.pve.words import DEADLINES, LATE_SECONDS

# ---- a request at a host

FIRST_SECONDS = LATE_SECONDS + 5.0  # the time until the first message of an answer
GRACE_SECONDS = RESULT_SECONDS + 5.0  # beyond a job's deadline
MOST_DEADLINE_SECONDS = 1800.0  # the longest deadline, even if a later host agent allows more
ASK_SECONDS = WHERE_SECONDS + 0.2  # the time in which the hosts say where a VM is
# the same time if the id may have been sent before, because then every host must answer
ASK_AGAIN_SECONDS = DEADLINES["where"] + 2.0

TRYING_SECONDS = 3.0  # the time after which a person is told why no first message has come


def silent_seconds(deadline: float) -> float:
    """Return how long a verb that only reads waits for its first message; `deadline` is the verb's own time."""
    return max(20.0, deadline + 5.0)


# ---- doctor, which ends within 30 s

PROOF_SECONDS = 7.0  # for two requests, because the first one fails if the clocks differ
ALL_SECONDS = 30.0 - PROOF_SECONDS  # for the parallel checks of all places, before the proof
LOOK_SECONDS = ALL_SECONDS - 1.0  # for one place, whose findings are kept if the time is over
CHECK_SECONDS = LOOK_SECONDS - 2.5  # for the check by the host agent, after the login
READ_SECONDS = DEADLINES["ping"] + 2.0  # for one answer of a host agent
HOLD_SECONDS = 20  # the delay of an answer that shows whether a proxy cuts slow answers
