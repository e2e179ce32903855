"""Turns and conversations as callers have them: start, attach, follow, cancel, list, replay. A script plays claude."""

import http.client
import json
from typing import Any

import pytest

from breakglass.client import new_id

from ..support.scripted_claude import RESULT, ScriptedClaude, line
from ..support.talk import Event, Talker, answer_text, fake, kinds, last_error, unread_turn

pytestmark = pytest.mark.slow
PLACES = 8
LONG = "one two three four five six seven eight nine ten"


def listed(talker: Talker, caller: str = "operator") -> list[dict[str, Any]]:
    answer = talker.ask(caller, list=True)
    assert answer.status == 200, answer.json
    return list(answer.json["sessions"])


def replay(talker: Talker, session: str, caller: str = "operator") -> list[Event]:
    with talker.open(caller, replay=True, session=session) as stream:
        return list(stream)


# --- attaching ---


def test_the_same_request_attaches(talker: Talker, claude: ScriptedClaude) -> None:
    """A repeated request starts no second turn, while the first runs or later: every stream has the same events."""
    msg_id, prompt = new_id(), fake({"text": LONG, "wait": "same"})
    with talker.open(msg_id=msg_id, prompt=prompt) as one, talker.open(msg_id=msg_id, prompt=prompt) as two:
        two.until("text")
        claude.release("same")
        assert one.rest() == two.rest() == talker.chat(prompt, msg_id=msg_id)
    assert [event["n"] for event in one.seen] == list(range(1, len(one.seen) + 1))
    assert sum(prompt in call[0] for call in talker.calls) == 1
    reply = talker.ask(msg_id=msg_id, prompt="two")
    assert (reply.status, reply.json["error"]["code"]) == (422, "id-reused")


def test_attaching_from_an_event_on(talker: Talker, claude: ScriptedClaude) -> None:
    """A client attaches in the middle of a turn, from any number, or after its end. Every client gets the same rest."""
    with talker.open(prompt=fake({"text": LONG, "wait": "middle"})) as stream:
        stream.until("text")
        with talker.open(attach=stream.turn, after=1) as late:
            assert late.until("text")["n"] == 2
            claude.release("middle")
            assert late.rest() == stream.rest()[1:]
    for after in (0, 3, stream.seen[-1]["n"] - 1):
        with talker.open(attach=stream.turn, after=after) as again:
            assert again.rest() == stream.seen[after:]
    for after in (stream.seen[-1]["n"], 10**6):
        with talker.open(attach=stream.turn, after=after) as over:
            assert over.rest() == stream.seen[-1:]


def test_a_client_that_does_not_read_delays_no_other(talker: Talker, claude: ScriptedClaude) -> None:
    """A client that reads nothing until the turn has ended gets all of it then."""
    text = "0123456789abcde\n" * 1000
    said = [
        line(type="assistant", message={"id": f"m{n}", "content": [{"type": "text", "text": text}]}) for n in range(12)
    ]
    claude.play("".join(said) + RESULT)
    with unread_turn(talker, "hello") as (turn, connection):
        with talker.open(attach=turn) as other:
            assert answer_text(other.rest()) == text * 12
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert [json.loads(each) for each in response.read().splitlines()] == other.seen
    claude.play_prompts()


# --- whose ---


def test_a_turn_is_its_callers(talker: Talker, claude: ScriptedClaude) -> None:
    """Another caller can't attach to it, cancel it or continue its session; one without `chat` learns nothing."""
    with talker.open(prompt=fake({"text": LONG, "wait": "whose"})) as stream:
        session = stream.until("session")["session"]
        for word in ("attach", "cancel"):
            fields = {word: stream.turn}
            reply = talker.ask("operator2", "", **fields)
            assert (reply.status, reply.json["error"]["code"]) == (404, "turn-unknown")
            assert talker.ask("viewer", "", **fields).json["error"]["code"] == "forbidden"
        reply = talker.ask("operator2", prompt="go on", session=session)
        assert (reply.status, reply.json["error"]["code"]) == (403, "session-invalid")
        assert talker.ask(prompt="go on", session=session, vm="other").status == 403
        claude.release("whose")
        assert stream.rest()[-1]["ok"] is True
    assert talker.ask(attach="msg_never_was").json["error"]["code"] == "turn-unknown"


# --- one at a time ---


def test_a_session_has_one_turn_at_a_time(talker: Talker, claude: ScriptedClaude) -> None:
    """The second gets `busy`, and nothing begins, so the same id begins its turn once the session is free."""
    session = talker.chat("hello")[0]["session"]
    busy_id = new_id()
    with talker.open(prompt=fake({"text": LONG, "wait": "busy"}), session=session) as stream:
        stream.until("text")
        events = talker.chat("me too", msg_id=busy_id, session=session)
        assert kinds(events) == ["session", "error", "done"]
        assert last_error(events)["code"] == "busy"
        claude.release("busy")
        assert stream.rest()[-1]["ok"] is True
    assert talker.ask(attach=busy_id).status == 404
    assert answer_text(talker.chat(fake({"text": "my turn"}), msg_id=busy_id, session=session)) == "my turn"
    assert talker.ask(msg_id=busy_id, prompt="another", session=session).status == 422


def test_a_turn_is_cancelled(talker: Talker) -> None:
    """Its text so far stays, the session continues, and a second cancellation changes nothing."""
    with talker.open(prompt=fake({"text": LONG, "wait": "never"})) as stream:
        session = stream.until("session")["session"]
        stream.until("text")
        reply = talker.ask(cancel=stream.turn)
        assert (reply.status, reply.json) == (202, {"cancelled": stream.turn})
        assert last_error(stream.rest())["code"] == "cancelled"
    assert LONG.startswith(answer_text(stream.seen))
    assert talker.ask(cancel=stream.turn).status == 202
    assert talker.chat("go on", session=session)[0]["resumed"] is True


# --- conversations ---


def test_what_was_said_comes_back(talker: Talker) -> None:
    """Each turn as its own stream had it, with what was asked, and then the newest token and the cost of all."""
    first = talker.chat("  Is it\n hung? " + fake({"text": LONG}))
    second = talker.chat(fake({"text": "more"}, {"text": "and more"}), session=first[0]["session"])
    lines = replay(talker, first[0]["session"])
    [one, two] = [line for line in lines if line["type"] == "turn"]
    at = lines.index(two)
    assert (lines[1:at], lines[at + 1 : -1]) == (first, second)
    assert one["prompt"].startswith("  Is it\n hung? look.")
    assert (one["turn"], one["tools"], one["at"][-1]) == (first[0]["turn"], "", "Z")
    last = lines[-1]
    assert (last["type"], last["left_out"], last["turn"], last["vm"]) == ("replayed", 0, None, "devvm")
    assert last["cost_usd"] == pytest.approx(0.02)
    assert talker.chat("go on", session=last["session"])[0]["resumed"] is True


def test_a_list_has_the_callers_own_newest_first(talker: Talker) -> None:
    """Each has its first words and a token; a further turn brings a conversation to the top.

    Others see nothing of it.
    """
    before = len(listed(talker)), len(listed(talker, "operator2"))
    older = talker.chat("the\tolder\none " + "x" * 500)
    talker.chat("the newer one")
    found = listed(talker)
    assert [each["words"] for each in found[:2]] == ["the newer one", "the older one " + "x" * 106]
    assert (found[1]["vm"], found[1]["turn"], found[1]["id"]) == ("devvm", None, older[0]["id"])
    assert (len(found), len(listed(talker, "operator2"))) == (before[0] + 2, before[1])
    talker.chat("again", session=found[1]["session"])
    assert listed(talker)[0]["words"].startswith("the older one")
    assert talker.ask("operator2", replay=True, session=found[0]["session"]).status == 403


def test_a_turn_under_way_is_named(talker: Talker, claude: ScriptedClaude) -> None:
    """A new tab gets what is there of it, and attaches for the rest. The turn continues without the first client."""
    with talker.open(prompt=fake({"text": LONG, "wait": "tab"})) as stream:
        session = stream.until("session")["session"]
        stream.until("text")
        assert listed(talker)[0]["turn"] == stream.turn
        lines = replay(talker, session)
        assert [line["type"] for line in lines] == ["turn", "session", "text", "replayed"]
        assert lines[-1]["turn"] == stream.turn
        stream.close()
        with talker.open(attach=stream.turn, after=lines[-2]["n"], session=session) as rest:
            claude.release("tab")
            assert list(rest)[-1]["type"] == "done"
    assert listed(talker)[0]["turn"] is None
    assert replay(talker, session)[-1]["turn"] is None
