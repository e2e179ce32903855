"""Turns of the real claude, with a scripted model behind it: what the events are, and what the next turn knows."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.model import Model
from ..support.talk import Talker, answer_text, bash, fake, kinds

pytestmark = [pytest.mark.real("claude"), pytest.mark.slow]


@pytest.fixture(scope="module")
def talker(model: Model, directory: Path) -> Iterator[Talker]:
    """A handler for all tests."""
    talker = Talker(directory, model, chat="max_turns_at_once = 8", metrics=True)
    yield talker
    talker.stop()


LONG = "one two three four five six seven eight nine ten"


def test_a_turn(talker: Talker) -> None:
    """The events are session, text in deltas, the tool that really ran, the result and done.

    The model's thinking is not part of the answer. The metrics have the tokens that claude reports at the end.
    """
    before = Counter(talker.scrape())
    first = {"thinking": "hm", "text": LONG, **bash("echo $((40+2))")}
    with talker.open(prompt=fake(first, {"text": "fin"})) as stream:
        events = stream.rest()
        assert stream.response.headers["content-type"] == "application/x-ndjson"
        assert stream.response.headers["cache-control"] == "no-store, no-transform"
    assert kinds(events) == ["session", "text", "tool", "tool_result", "text", "result", "done"]
    assert answer_text(events) == f"{LONG}fin"
    assert len([event for event in events if event["type"] == "text"]) > 2
    session, result, done = events[0], events[-2], events[-1]
    assert (session["turn"], session["resumed"], len(session["id"])) == (stream.turn, False, 36)
    [tool] = [event for event in events if event["type"] == "tool_result"]
    assert (tool["ok"], tool["text"]) == (True, "42")
    assert (result["ok"], result["text"], result["turns"]) == (True, "fin", 2)
    assert result["seconds"] > 0
    assert result["cost_usd"] > 0
    assert done["ok"] is True
    assert result["tokens"].keys() == {"input", "output", "cache_read", "cache_write"}
    assert result["tokens"]["output"] > 0
    talker.wait_for_places()
    after = Counter(talker.scrape())
    for kind, count in result["tokens"].items():
        name = f"turn_tokens_total{{kind={kind}}}"
        assert after[name] - before[name] == count
    assert after["turns_total{outcome=ok}"] == before["turns_total{outcome=ok}"] + 1
    assert after["turn_cost_dollars_total"] - before["turn_cost_dollars_total"] == pytest.approx(result["cost_usd"])


def test_broken_text_is_taken_back(talker: Talker, model: Model) -> None:
    """When the model's stream breaks, claude asks again: the text is retracted, and the client has the answer once."""
    step = {"text": LONG, "wait": "broken", "fail": "reset", "times": 1}
    with talker.open(prompt=fake(step)) as stream:
        stream.until("text")  # claude has it, so there is something to retract
        model.release("broken")
        events = stream.rest()
    assert [event["type"] for event in events if "retract" in event] == ["text"]
    assert answer_text(events) == LONG
    assert events[-1]["ok"] is True
