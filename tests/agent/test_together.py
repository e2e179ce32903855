"""A question whose process dies."""

import os
import signal
import time
from collections.abc import Iterator

from breakglass.agents.pve.forensics.probe import Probe, Reply
from breakglass.agents.pve.forensics.together import ask_together


def test_a_probe_that_dies_is_told() -> None:
    """The silence of a dead probe does not count as an answer."""

    def die(_: float) -> Iterator[Reply]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield Reply("dies", "", "ok", 0, "")

    [reply] = ask_together([Probe(0, "dies", 5, die)], time.monotonic() + 20)
    assert (reply.outcome, reply.text) == ("failed", "the probe died")
