"""Many questions at once: their order, the begin of their deadlines, and that no process is left."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from breakglass.agents.pve.forensics import together
from breakglass.agents.pve.forensics.probe import Probe, Reply
from breakglass.agents.pve.forensics.together import ask_together

Ask = Callable[[float], Iterator[Reply]]


def answering(name: str, seconds: float = 0.0) -> Ask:
    """Return a question that takes some time."""

    def ask(_: float) -> Iterator[Reply]:
        time.sleep(seconds)
        yield Reply(name, "", "ok", seconds, "")

    return ask


@pytest.mark.slow
def test_what_there_is_no_time_for_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more Perls run than there are processors. The reply says that the probe did not start, which is no finding."""
    monkeypatch.setattr(together, "_LEAST_PERL_SECONDS", 0.01)
    processors = len(os.sched_getaffinity(0))
    probes = [Probe(2, f"slow {n}", 60, answering(f"slow {n}", 60), is_perl=True) for n in range(processors)]
    probes.append(Probe(2, "last", 5, answering("last"), is_perl=True))
    replies = {reply.probe: reply for reply in ask_together(probes, time.monotonic() + 2)}
    assert {replies[f"slow {n}"].outcome for n in range(processors)} == {"timed out"}
    assert (replies["last"].outcome, replies["last"].text) == ("failed", "not asked: the time is over")


def test_a_probe_that_dies_is_told() -> None:
    """The silence of a dead probe does not count as an answer."""

    def die(_: float) -> Iterator[Reply]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield Reply("dies", "", "ok", 0, "")

    [reply] = ask_together([Probe(0, "dies", 5, die)], time.monotonic() + 20)
    assert (reply.outcome, reply.text) == ("failed", "the probe died")
