"""The handler's times that are nested in each other, in seconds: the outer one is the inner one and some slack.

tests/unit/test_budget.py compares them, also with the host agent's, and with those that stand where they are used.
"""

from ..agents.pve.budget import RESULT_SECONDS, WHERE_SECONDS
from ..agents.pve.words import DEADLINES, LATE_SECONDS

# ---- a request at a host

FIRST_SECONDS = LATE_SECONDS + 5.0  # until the first message
GRACE_SECONDS = RESULT_SECONDS + 5.0  # beyond a job's deadline
MOST_DEADLINE_SECONDS = 1800.0  # also of a host agent of a later version
ASK_SECONDS = WHERE_SECONDS + 0.2  # for the hosts to say where a VM is
ASK_AGAIN_SECONDS = DEADLINES["where"] + 2.0  # the same if the id may have been sent before: each of them has to answer

# ---- doctor, which ends within 30 s

PROOF_SECONDS = 7.0  # for two requests, if the clocks differ
ALL_SECONDS = 30.0 - PROOF_SECONDS  # for all places at once, before the proof
LOOK_SECONDS = ALL_SECONDS - 1.0  # for one of them, which then keeps what it has found
CHECK_SECONDS = LOOK_SECONDS - 2.5  # for a host's own check, after the login
READ_SECONDS = DEADLINES["ping"] + 2.0  # for an answer of a host agent
HOLD_SECONDS = 20  # how long an answer is delayed, to see whether a proxy cuts it
