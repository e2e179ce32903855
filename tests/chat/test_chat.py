"""Turns: the real claude and a scripted model behind a real handler. Streams, whose they are, and stopping them."""

import contextlib
import http.client
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.cli.client import new_id

from ..support.model import Model
from ..support.talk import (
    Event,
    Talker,
    bash,
    deaf,
    fake,
    gone,
    kinds,
    last_error,
    nap,
    parent,
    running,
    said,
    started,
    there,
)

pytestmark = [pytest.mark.real("claude"), pytest.mark.slow]


@pytest.fixture(scope="module")
def talker(model: Model, directory: Path) -> Iterator[Talker]:
    """A handler for all tests that leave it as it was."""
    talker = Talker(directory, model, chat="max_turns_at_once = 8")
    yield talker
    talker.stop()


def numbers(events: list[Event]) -> list[int]:
    return [event["n"] for event in events]


LONG = "one two three four five six seven eight nine ten"


# --- a turn ---


def test_a_turn(talker: Talker) -> None:
    """Session first, text in deltas, the tool that really ran, the result, done last; each with the next number."""
    with talker.open(prompt=fake({"text": LONG, **bash("echo $((40+2))")}, {"text": "fin"})) as stream:
        events = stream.rest()
        assert stream.response.headers["content-type"] == "application/x-ndjson"
        assert stream.response.headers["cache-control"] == "no-store, no-transform"
    assert kinds(events) == ["session", "text", "tool", "tool_result", "text", "result", "done"]
    assert numbers(events) == list(range(1, len(events) + 1))
    assert said(events) == f"{LONG}fin"
    assert len([event for event in events if event["type"] == "text"]) > 2
    session, result, done = events[0], events[-2], events[-1]
    assert (session["turn"], session["resumed"], len(session["id"])) == (stream.turn, False, 36)
    [tool] = [event for event in events if event["type"] == "tool_result"]
    assert (tool["ok"], tool["text"]) == (True, "42")
    assert (result["ok"], result["text"], result["turns"]) == (True, "fin", 2)
    assert result["seconds"] > 0
    assert result["cost_usd"] > 0
    assert done["ok"] is True


def test_a_session_goes_on(talker: Talker, model: Model) -> None:
    """The next turn knows what was said, costs what it costs itself, and hands a session on."""
    first = talker.chat(fake({"text": "the word is heron"}))
    second = talker.chat(fake({"text": "again"}), session=first[0]["session"])
    assert (second[0]["id"], second[0]["resumed"]) == (first[0]["id"], True)
    assert "the word is heron" in json.dumps(model.asked[-1].body)
    assert said(second) == "again"
    assert 0 < second[-2]["cost_usd"] < 2 * first[-2]["cost_usd"]
    third = talker.chat(fake({"text": "still"}), session=second[0]["session"])
    assert said(third) == "still"


def test_thinking_is_not_shown(talker: Talker) -> None:
    """What the model thinks is not its answer."""
    assert said(talker.chat(fake({"thinking": "hm", "text": "yes"}))) == "yes"


def test_broken_text_is_taken_back(talker: Talker) -> None:
    """When the model's stream breaks, claude asks again: the client forgets what was said and has the answer once."""
    events = talker.chat(fake({"text": LONG, "fail": "reset", "times": 1}))
    assert [event["type"] for event in events if "retract" in event] == ["text"]
    assert said(events) == LONG
    assert events[-1]["ok"] is True


def test_a_prompt_is_only_a_prompt(talker: Talker, model: Model) -> None:
    """No flag, no command of claude's own, no file that comes along: the session stays, the file stays home."""
    first = session = talker.chat("hello")[0]
    asked = len(model.asked)
    for prompt in ("--help", "/clear", "@/etc/passwd", "!id", "/var/log is full"):
        events = talker.chat(prompt, session=session["session"])
        assert (events[-1]["ok"], events[0]["id"]) == (True, first["id"]), prompt
        session = events[0]
    assert "root:x:0:0" not in "".join(json.dumps(each.body) for each in model.asked[asked:])
    assert "hello" in json.dumps(model.asked[-1].body)


def test_a_long_prompt_and_a_long_answer(talker: Talker) -> None:
    """Both are longer than a pipe holds, and both arrive whole."""
    answer = "0123456789abcde\n" * 8000
    assert said(talker.chat(f"{'long ' * 20_000}{fake({'text': answer})}")) == answer


# --- attaching ---


def test_the_same_request_attaches(talker: Talker, model: Model) -> None:
    """Sent again, while it runs and after, it begins nothing: every stream has the same events."""
    msg_id, prompt = new_id(), fake({"text": LONG, "wait": "same"})
    asked = len(model.asked)
    with talker.open(msg_id=msg_id, prompt=prompt) as one, talker.open(msg_id=msg_id, prompt=prompt) as two:
        two.until("text")
        model.release("same")
        assert one.rest() == two.rest() == talker.chat(prompt, msg_id=msg_id)
    assert len(model.asked) == asked + 1


def test_an_id_names_one_turn(talker: Talker) -> None:
    """The same id with another prompt is refused and begins nothing."""
    msg_id = new_id()
    talker.chat(fake({"text": "one"}), msg_id=msg_id)
    reply = talker.ask(msg_id=msg_id, prompt="two")
    assert (reply.status, reply.json["error"]["code"]) == (422, "id-reused")


def test_attaching_from_an_event_on(talker: Talker, model: Model) -> None:
    """In the middle of a turn, from any number; the rest is the same for everybody."""
    with talker.open(prompt=fake({"text": LONG, "wait": "middle"})) as stream:
        stream.until("text")
        with talker.open(attach=stream.turn, after=1) as late:
            assert late.until("text")["n"] == 2
            model.release("middle")
            assert late.rest() == stream.rest()[1:]
    for after in (0, 3, stream.seen[-1]["n"] - 1):
        with talker.open(attach=stream.turn, after=after) as again:
            assert again.rest() == stream.seen[after:]
    for after in (stream.seen[-1]["n"], 10**6):
        with talker.open(attach=stream.turn, after=after) as over:
            assert over.rest() == stream.seen[-1:]


def test_a_turn_needs_no_client(talker: Talker, model: Model) -> None:
    """The one who began it leaves in the middle; it goes on, and can be read from the first event."""
    with talker.open(prompt=fake({"text": LONG, "wait": "alone", **bash("echo $((40+2))")}, {"text": "fin"})) as stream:
        stream.until("text")
    model.release("alone")
    with talker.open(attach=stream.turn) as again:
        assert said(again.rest()) == f"{LONG}fin"
        assert again.seen[-1]["ok"] is True


def test_a_client_that_does_not_read_holds_up_nobody(talker: Talker) -> None:
    """It reads nothing until the turn has ended, and then all of it; another had everything meanwhile."""
    answer = "0123456789abcde\n" * 12_000
    with deaf(talker, fake({"text": answer})) as (turn, connection):
        with talker.open(attach=turn) as other:
            assert said(other.rest()) == answer
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert [json.loads(line) for line in response.read().splitlines()] == other.seen


# --- whose ---


def test_a_turn_is_its_callers(talker: Talker, model: Model) -> None:
    """Nobody else can attach to it, cancel it or continue its session; who may not chat learns nothing at all."""
    with talker.open(prompt=fake({"text": LONG, "wait": "whose"})) as stream:
        session = stream.until("session")["session"]
        for word in ("attach", "cancel"):
            fields = {word: stream.turn}
            reply = talker.ask("operator2", "", **fields)
            assert (reply.status, reply.json["error"]["code"]) == (404, "turn-unknown")
            assert talker.ask("viewer", "", **fields).json["error"]["code"] == "forbidden"
        reply = talker.ask("operator2", prompt="go on", session=session)
        assert (reply.status, reply.json["error"]["code"]) == (403, "session-invalid")
        model.release("whose")
        assert stream.rest()[-1]["ok"] is True
    assert talker.ask(attach="msg_never_was").json["error"]["code"] == "turn-unknown"


def test_what_is_refused_begins_nothing(talker: Talker, model: Model) -> None:
    """A changed session, another VM, an empty prompt, two wishes at once: each has its code, and no turn."""
    asked = len(model.asked)
    session = talker.chat("hello")[0]["session"]
    refusals: list[tuple[dict[str, object], int, str]] = [
        ({"prompt": "x", "session": session[:-4] + "AAAA"}, 403, "session-invalid"),
        ({"prompt": "x", "session": session, "vm": "other"}, 403, "session-invalid"),
        ({"prompt": "x", "vm": "other"}, 400, "bad-request"),
        ({"prompt": " "}, 400, "bad-request"),
        ({"prompt": "x", "after": 3}, 400, "bad-request"),
        ({"prompt": "x", "attach": "msg_12345678"}, 400, "bad-request"),
        ({"attach": "msg_12345678", "after": -1}, 400, "bad-request"),
        ({"attach": "../../etc/passwd"}, 400, "bad-request"),
        ({}, 400, "bad-request"),
    ]
    for fields, status, code in refusals:
        reply = talker.ask("operator", "", **fields)
        assert (reply.status, reply.json["error"]["code"]) == (status, code), fields
    assert len(model.asked) == asked + 1


# --- one at a time ---


def test_a_session_has_one_turn_at_a_time(talker: Talker, model: Model) -> None:
    """Also across replicas; the second is told so, and that is its end for good. Free again, the session goes on."""
    session = talker.chat("hello")[0]["session"]
    busy_id = new_id()
    with started(talker.replica()) as other:
        with talker.open(prompt=fake({"text": LONG, "wait": "busy"}), session=session) as stream:
            stream.until("text")
            for handler in (talker, other):
                events = handler.chat("me too", session=session)
                assert kinds(events) == ["session", "error", "done"]
                assert last_error(events)["code"] == "busy"
            assert last_error(talker.chat("and me", msg_id=busy_id, session=session))["code"] == "busy"
            model.release("busy")
            assert stream.rest()[-1]["ok"] is True
        assert last_error(talker.chat("and me", msg_id=busy_id, session=session))["code"] == "busy"
        assert said(other.chat(fake({"text": "my turn"}), session=session)) == "my turn"


def test_another_replica_serves_a_turn(talker: Talker, model: Model) -> None:
    """It sends the events as they come, and can stop it."""
    with started(talker.replica()) as other:
        with talker.open(prompt=fake({"text": LONG, "wait": "shared"})) as stream:
            stream.until("text")
            with other.open(attach=stream.turn) as there:
                there.until("text")
                reply = other.ask(cancel=stream.turn)
                assert (reply.status, reply.json) == (202, {"cancelled": stream.turn})
                assert there.rest() == stream.rest()
        assert last_error(stream.seen)["code"] == "cancelled"


# --- stopping ---


def test_a_turn_is_stopped_in_its_text(talker: Talker, model: Model) -> None:
    """Its text so far stays, no process does, and the session goes on and knows it."""
    with talker.open(prompt=fake({"text": LONG, "wait": "never"})) as stream:
        session = stream.until("text") and stream.seen[0]
        began = time.monotonic()
        assert talker.ask(cancel=stream.turn).status == 202
        assert last_error(stream.rest())["code"] == "cancelled"
        assert time.monotonic() - began < 50  # ten times the bound
    assert LONG.startswith(said(stream.seen))
    assert said(stream.seen)
    gone(session["id"])
    assert said(talker.chat(fake({"text": "here"}), session=session["session"])) == "here"
    assert said(stream.seen).strip() in json.dumps(model.asked[-1].body)
    assert talker.ask(cancel=stream.turn).status == 202  # once more changes nothing


def test_a_turn_is_stopped_in_its_tool(talker: Talker) -> None:
    """The command that claude was running, in a session of its own, ends with it."""
    with talker.open(prompt=fake(bash(f"{nap(31)} | {nap(31)}"))) as stream:
        session = stream.until("tool") and stream.seen[0]
        there(nap(31))
        assert talker.ask(cancel=stream.turn).status == 202
        assert last_error(stream.rest())["code"] == "cancelled"
    assert running(nap(31)) == []
    assert running(session["id"]) == []
    assert said(talker.chat(fake({"text": "here"}), session=session["session"])) == "here"


@pytest.mark.parametrize("where", ["text", "tool"])
def test_a_handler_is_killed(model: Model, directory: Path, where: str) -> None:
    """By SIGKILL: no process is left, what was said is there and has an end, and the session goes on."""
    steps = [{"text": LONG, "wait": "never"}] if where == "text" else [{"text": LONG, **bash(f"{nap(16)} | {nap(16)}")}]
    with started(Talker(directory, model)) as talker:
        with talker.open(prompt=fake(*steps)) as stream:
            stream.until(where)
            if where == "tool":
                there(nap(16))
            talker.kill()
            with contextlib.suppress(OSError, ValueError):
                stream.rest()
        session = stream.seen[0]
        gone(session["id"])
        assert running(nap(16)) == []
        with started(talker.replica()) as other, other.open(attach=stream.turn) as again:
            events = again.rest()
            assert last_error(events)["code"] == "shutting-down"
            assert LONG.startswith(said(events))
            assert said(events)
            assert said(other.chat(fake({"text": "here"}), session=session["session"])) == "here"


@pytest.mark.parametrize("who", ["runner", "both"])
def test_a_runner_is_killed(model: Model, directory: Path, who: str) -> None:
    """Its command ends as well, though the killed one can't end it, and only then its session is free. Whoever finds a
    log without an ending writes it, here or at the next handler."""
    with started(Talker(directory, model)) as talker:
        first = talker.chat("hello")[0]
        work = {"text": LONG, **bash(f"{nap(18)} | {nap(18)}")}
        with talker.open(prompt=fake(work), session=first["session"]) as stream:
            stream.until("tool")
            there(nap(18))
            [claude] = running(f"--resume={first['id']}")
            runner = parent(claude)
            if who == "both":
                talker.kill()
            os.kill(runner, signal.SIGKILL)
            gone(first["id"])
            with contextlib.suppress(OSError, ValueError):
                stream.rest()
        with started(talker.replica()) as other, other.open(attach=stream.turn) as again:
            assert last_error(again.rest())["code"] == "claude-crashed"
            assert running(nap(18)) == []
            assert who == "both" or stream.seen == again.seen
            assert said(other.chat(fake({"text": "here"}), session=first["session"])) == "here"


@pytest.mark.parametrize("where", ["text", "tool"])
def test_a_handler_is_stopped(model: Model, directory: Path, where: str) -> None:
    """By SIGTERM: every stream has its last line within 5 s, and no process is left."""
    steps = [{"text": LONG, "wait": "never"}] if where == "text" else [bash(f"{nap(17)} | {nap(17)}")]
    with started(Talker(directory, model)) as talker, talker.open(prompt=fake(*steps)) as stream:
        stream.until(where)
        if where == "tool":
            there(nap(17))
        began = time.monotonic()
        talker.process.terminate()
        assert last_error(stream.rest())["code"] == "shutting-down"
        talker.process.wait(10)
        assert time.monotonic() - began < 60  # ten times the bound
        gone(stream.seen[0]["id"], 0)
        assert running(nap(17)) == []
