"""Following a turn: attaching to it, who may, one turn at a time, other replicas. A script stands in for claude."""

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.client import new_id

from ..support.model import Model
from ..support.scripted_claude import ScriptedClaude
from ..support.talk import Talker, answer_text, bash, fake, kinds, last_error, started, unread_turn

pytestmark = pytest.mark.slow

LONG = "one two three four five six seven eight nine ten"


@pytest.fixture(scope="module")
def claude(directory: Path) -> ScriptedClaude:
    return ScriptedClaude(directory)


@pytest.fixture(scope="module")
def talker(claude: ScriptedClaude, model: Model, directory: Path) -> Iterator[Talker]:
    """A handler for all tests."""
    with started(Talker(directory, model, chat=f"max_turns_at_once = 8\n{claude.chat}")) as talker:
        yield talker


@pytest.fixture(scope="module")
def other(talker: Talker) -> Iterator[Talker]:
    """A second handler with the same configuration."""
    with started(talker.replica()) as other:
        yield other


# --- attaching ---


def test_the_same_request_attaches(talker: Talker, claude: ScriptedClaude) -> None:
    """A repeated request starts no second turn, while the first runs or later: every stream has the same events."""
    msg_id, prompt = new_id(), fake({"text": LONG, "wait": "same"})
    before = len(claude.calls)
    with talker.open(msg_id=msg_id, prompt=prompt) as one, talker.open(msg_id=msg_id, prompt=prompt) as two:
        two.until("text")
        claude.release("same")
        assert one.rest() == two.rest() == talker.chat(prompt, msg_id=msg_id)
    assert len(claude.calls) == before + 1


def test_an_id_names_one_turn(talker: Talker) -> None:
    """The same id with another prompt is refused and starts no turn."""
    msg_id = new_id()
    talker.chat(fake({"text": "one"}), msg_id=msg_id)
    reply = talker.ask(msg_id=msg_id, prompt="two")
    assert (reply.status, reply.json["error"]["code"]) == (422, "id-reused")


def test_attaching_from_an_event_on(talker: Talker, claude: ScriptedClaude) -> None:
    """In the middle of a turn, from any number; every client gets the same rest."""
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


def test_a_turn_needs_no_client(talker: Talker, claude: ScriptedClaude) -> None:
    """The client leaves in the middle; the turn goes on, and can be read from the first event."""
    with talker.open(prompt=fake({"text": LONG, "wait": "alone", **bash("echo $((40+2))")}, {"text": "fin"})) as stream:
        stream.until("text")
    claude.release("alone")
    with talker.open(attach=stream.turn) as again:
        assert answer_text(again.rest()) == f"{LONG}fin"
        assert again.seen[-1]["ok"] is True


def test_a_client_that_does_not_read_holds_up_nobody(talker: Talker) -> None:
    """A client that reads nothing until the turn has ended gets all of it then; another client is not delayed."""
    answer = "0123456789abcde\n" * 12_000
    with unread_turn(talker, fake({"text": answer})) as (turn, connection):
        with talker.open(attach=turn) as other:
            assert answer_text(other.rest()) == answer
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert [json.loads(line) for line in response.read().splitlines()] == other.seen


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
        claude.release("whose")
        assert stream.rest()[-1]["ok"] is True
    assert talker.ask(attach="msg_never_was").json["error"]["code"] == "turn-unknown"


def test_what_is_refused_begins_nothing(talker: Talker, claude: ScriptedClaude) -> None:
    """A changed session, another VM, an empty prompt, two wishes at once: each has its code, and no turn."""
    before = len(claude.calls)
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
    assert len(claude.calls) == before + 1


# --- one at a time ---


def test_a_session_has_one_turn_at_a_time(talker: Talker, other: Talker, claude: ScriptedClaude) -> None:
    """Also across replicas: the second gets `busy`, which is final for its id. Later the session goes on."""
    session = talker.chat("hello")[0]["session"]
    busy_id = new_id()
    with talker.open(prompt=fake({"text": LONG, "wait": "busy"}), session=session) as stream:
        stream.until("text")
        for handler in (talker, other):
            events = handler.chat("me too", session=session)
            assert kinds(events) == ["session", "error", "done"]
            assert last_error(events)["code"] == "busy"
        assert last_error(talker.chat("and me", msg_id=busy_id, session=session))["code"] == "busy"
        claude.release("busy")
        assert stream.rest()[-1]["ok"] is True
    assert last_error(talker.chat("and me", msg_id=busy_id, session=session))["code"] == "busy"
    assert answer_text(other.chat(fake({"text": "my turn"}), session=session)) == "my turn"


def test_another_replica_serves_a_turn(talker: Talker, other: Talker, claude: ScriptedClaude) -> None:
    """Another replica sends the events as they come, and can stop the turn."""
    with talker.open(prompt=fake({"text": LONG, "wait": "shared"})) as stream:
        stream.until("text")
        with other.open(attach=stream.turn) as there:
            there.until("text")
            reply = other.ask(cancel=stream.turn)
            assert (reply.status, reply.json) == (202, {"cancelled": stream.turn})
            assert there.rest() == stream.rest()
    assert last_error(stream.seen)["code"] == "cancelled"
