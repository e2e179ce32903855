"""Many questions at once: their order, the begin of their deadlines, and that no process is left."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from breakglass.agents.pve.forensics import together
from breakglass.agents.pve.forensics.probe import Probe, Reply
from breakglass.agents.pve.forensics.together import ask_together
from breakglass.agents.pve.host.bounded import run

from ..support.naps import nap, wait_until_gone

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


def test_an_answer_may_lead_to_further_questions() -> None:
    """Further questions are asked while the first ones still run, and their answers may lead to more."""
    gate, opener = os.pipe()

    def wait_for_the_third(_: float) -> Iterator[Reply]:
        os.read(gate, 1)
        yield Reply("slow", "", "ok", 0, "")

    def follow_up(reply: Reply) -> list[Probe]:
        if reply.probe == "third":
            os.write(opener, b"x")
        following = {"first": "second", "second": "third"}.get(reply.probe)
        return [Probe(0, following, 60, answering(following))] if following else []

    slow = Probe(0, "slow", 60, wait_for_the_third)
    replies = list(ask_together([slow, Probe(0, "first", 60, answering("first"))], time.monotonic() + 120, follow_up))
    assert [reply.probe for reply in replies] == ["first", "second", "third", "slow"]
    for fd in (gate, opener):
        os.close(fd)


def test_a_probe_that_dies_is_told() -> None:
    """The silence of a dead probe does not count as an answer."""

    def die(_: float) -> Iterator[Reply]:
        os.kill(os.getpid(), signal.SIGKILL)
        yield Reply("dies", "", "ok", 0, "")

    [reply] = ask_together([Probe(0, "dies", 5, die)], time.monotonic() + 20)
    assert (reply.outcome, reply.text) == ("failed", "the probe died")


@pytest.mark.all
@pytest.mark.slow
def test_the_command_of_a_late_probe_ends_with_it(tmp_path: Path) -> None:
    """The command's whole group ends, even if it ignores SIGTERM and the probe's process had no time to end it."""
    begun, command = tmp_path / "begun", nap(900)

    def hang(_: float) -> Iterator[Reply]:
        run(["sh", "-c", f"trap '' TERM; echo >{begun}; {command}; true"], 600)
        yield Reply("hangs", "", "ok", 0, "")

    [reply] = ask_together([Probe(0, "hangs", 8, hang)], time.monotonic() + 60)
    assert reply.outcome == "timed out"
    assert begun.exists()
    wait_until_gone(command)
