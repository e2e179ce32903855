"""The terminal's side of /chat: what it makes of a list, of a replay, and of a turn that another client began."""

import io
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from breakglass.cli.conversation import CHECK, ChatClient, fetch_conversations
from breakglass.cli.output import DONE
from breakglass.cli.terminal import Terminal
from breakglass.cli.terminal_text import CHECK_PROMPT, LIMIT_USD, shortened, table_of, without_retracted
from breakglass.cli.terminal_text import LINES as SHOWN_LINES
from breakglass.client import Event, HandlerError, NoAnswer, Signer

from ..support.peer import JSON, LINES, answer, peer
from ..support.service import new_secret

PAGE = Path(__file__).parent.parent.parent / "static_site"
TURNS: list[Event] = [
    {"type": "turn", "turn": "msg_first", "prompt": "Why is it hung?", "at": "2026-11-28T03:00:00Z", "tools": ""},
    {"type": "session", "n": 1, "session": "old", "id": "u", "turn": "msg_first", "resumed": False},
    {"type": "text", "n": 2, "text": "Its disk."},
    {"type": "done", "n": 3, "ok": True},
    {"type": "turn", "turn": "msg_second", "prompt": "And now?", "at": "2026-11-28T03:05:00Z", "tools": "host"},
    {"type": "session", "n": 1, "session": "new", "id": "u", "turn": "msg_second", "resumed": True},
    {"type": "text", "n": 2, "text": "It "},
    {"type": "ping", "n": 2},
]
REPLAYED: Event = {"type": "replayed", "session": "new", "id": "u", "vm": "devvm", "left_out": 3, "cost_usd": 0.25}
ID_REUSED: Event = {"error": {"code": "id-reused", "message": "another prompt"}}


def replay(*more: Event) -> str:
    return answer("200 OK", LINES, *TURNS, *more)


def test_a_replay_gives_the_last_turn() -> None:
    """With the number of all turns, the newest token and the cost; the next turn then continues the session."""
    events: list[Event] = [{"type": "done", "n": 3, "ok": True}, {**REPLAYED, "turn": None}]
    done = answer("200 OK", LINES, {"type": "result", "n": 1, "cost_usd": 0.5}, {"type": "done", "n": 2, "ok": True})
    with peer(replay(*events), done) as (url, bodies):
        conversation = ChatClient(Signer(url, b"k" * 32), session="old")
        past = conversation.replay()
        assert (conversation.session, conversation.cost_usd) == ("new", 0.25)
        assert len(list(conversation.start_turn("hello"))) == 2
    assert (past.vm, past.turns, past.prompt, past.at) == ("devvm", 5, "And now?", "2026-11-28T03:05:00Z")
    assert [event["type"] for event in past.events] == ["session", "text", "done"]
    assert not past.is_running
    first, second = map(json.loads, bodies)
    assert first == {"session": "old", "replay": True, "to": url}
    assert second == {"prompt": "hello", "session": "new", "to": url}
    assert conversation.cost_usd == 0.75


def test_a_turn_that_still_runs_is_followed() -> None:
    """What the replay had is not shown twice, because the client attaches after its last event."""
    rest = answer("200 OK", LINES, {"type": "text", "n": 3, "text": "runs."}, {"type": "done", "n": 4, "ok": True})
    with peer(replay({**REPLAYED, "turn": "msg_second"}), rest) as (url, bodies):
        conversation = ChatClient(Signer(url, b"k" * 32), session="old")
        assert conversation.replay().is_running
        assert [event["n"] for event in conversation.follow_turn()] == [3, 4]
    assert json.loads(bodies[1]) == {"attach": "msg_second", "after": 2, "to": url}


def test_a_conversation_without_logs_goes_on() -> None:
    """Its turns are too old to be shown. If the handler has no newer token, the one that was sent stays."""
    for session, expected in (("new", "new"), (None, "old")):
        last: Event = {**REPLAYED, "session": session, "cost_usd": 0, "turn": None}
        with peer(answer("200 OK", LINES, last)) as (url, _):
            conversation = ChatClient(Signer(url, b"k" * 32), session="old")
            past = conversation.replay()
        assert (past.turns, past.at, past.events, conversation.session) == (3, "", (), expected)


def test_a_turn_that_ended_during_its_replay_does_not_run() -> None:
    """Its `done` has come, so nothing would come after it."""
    with peer(replay({"type": "done", "n": 3, "ok": True}, {**REPLAYED, "turn": "msg_second"})) as (url, _):
        assert not ChatClient(Signer(url, b"k" * 32), session="old").replay().is_running


def test_a_cut_replay_is_none() -> None:
    """Without its last line it lacks turns, and the newest token."""
    with peer(replay()) as (url, _), pytest.raises(NoAnswer, match="without its last line"):
        ChatClient(Signer(url, b"k" * 32), session="old").replay()


def test_a_job_is_checked_once() -> None:
    """The check's id is that of the job. If the page has begun it in its own words, its events are shown here too."""
    lines = answer("200 OK", LINES, {"type": "session", "n": 1, "session": "newer"}, {"type": "done", "n": 2})
    with peer(answer("422 Unprocessable Entity", JSON, ID_REUSED), lines) as (url, bodies):
        conversation = ChatClient(Signer(url, b"k" * 32), "devvm", "token")
        assert [event["n"] for event in conversation.start_check("Check.", "job_1")] == [1, 2]
    first, second = map(json.loads, bodies)
    assert first == {"prompt": "Check.", "tools": "host", "vm": "devvm", "session": "token", "to": url}
    assert second == {"attach": f"{CHECK}job_1", "after": 0, "to": url}
    assert conversation.session == "newer"


def test_no_other_turn_is_attached_to() -> None:
    """An id that is used again is an error, of a turn that a person wrote and of an attachment."""
    reused = answer("422 Unprocessable Entity", JSON, ID_REUSED)
    with peer(reused, reused, reused) as (url, bodies):
        conversation = ChatClient(Signer(url, b"k" * 32))
        with pytest.raises(HandlerError, match="another prompt"):
            list(conversation.start_turn("hello"))
        with pytest.raises(HandlerError, match="another prompt"):
            list(conversation.start_check("hello", "job_1"))
    assert len(bodies) == 3


def test_a_list() -> None:
    """Each conversation keeps its number when only one VM's are shown; a line break in its words begins no line."""
    at = "2026-11-28T03:00:00Z"
    found: list[Event] = [
        {"id": "1", "vm": "devvm", "words": "Why is\nit hung?", "at": at, "session": "t1", "turn": "msg_1"},
        {"id": "2", "vm": "db", "words": "Is it safe to cycle?", "at": "soon", "session": "t2", "turn": None},
    ]
    with peer(answer("200 OK", JSON, {"sessions": found})) as (url, bodies):
        conversations = fetch_conversations(Signer(url, b"k" * 32))
    assert json.loads(bodies[0]) == {"list": True, "to": url}
    assert conversations == found
    here = f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M}"
    first = f"1  {here}  devvm  Why is it hung? (claude is answering)\n"
    second = f"2  {'soon':16}  db     Is it safe to cycle?\n"
    assert table_of(conversations, "") == first + second
    assert table_of(conversations, "db") == "2  soon  db  Is it safe to cycle?\n"
    assert table_of([], "") == ""


def test_an_answer_without_a_list_is_none() -> None:
    """It is not shown as an empty list."""
    with peer(answer("200 OK", JSON, {"time": 1})) as (url, _), pytest.raises(NoAnswer, match="no list"):
        fetch_conversations(Signer(url, b"k" * 32))


def test_retracted_text_of_an_earlier_turn_is_left_out() -> None:
    """Only the text before the retraction goes, from its number on; a tool's call stays."""
    events: list[Event] = [
        {"type": "text", "n": 1, "text": "a"},
        {"type": "tool", "n": 2},
        {"type": "text", "n": 3, "text": "b"},
        {"type": "text", "n": 4, "retract": 3},
        {"type": "text", "n": 5, "text": "c"},
    ]
    assert [event["n"] for event in without_retracted(events)] == [1, 2, 5]


def test_a_long_text_is_shortened() -> None:
    """Its first lines stay, if more than one would be hidden."""
    lines = [str(n) for n in range(1, SHOWN_LINES + 3)]
    assert shortened("\n".join(lines[:-1]), "> ") == "".join(f"> {line}\n" for line in lines[:-1])
    assert shortened("\n".join(lines)).endswith("  4\n  … 2 more lines\n")


@pytest.mark.parametrize(
    ("age", "asks"), [(timedelta(hours=23), True), (timedelta(hours=25), False), (timedelta(hours=-25), False)]
)
def test_a_proposal_is_open_for_a_day(
    age: timedelta, asks: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The host forgets an id after two days, because it would run an old one a second time."""
    at = f"{datetime.now(UTC) - age:%Y-%m-%dT%H:%M:%SZ}"
    events: list[Event] = [
        {"type": "turn", "turn": "msg_first", "prompt": "help", "at": at, "tools": ""},
        {
            "type": "approval",
            "n": 1,
            "verb": "reset",
            "vm": "devvm",
            "job": "job_1",
            "why": "It hangs.",
            "last": "none",
        },
        {"type": "done", "n": 2, "ok": True},
        {"type": "replayed", "session": "s", "id": "u", "vm": "devvm", "left_out": 0, "cost_usd": 0, "turn": None},
    ]
    unknown = answer("200 OK", JSON, {"outcome": "done", "job": None})
    refused = answer("403 Forbidden", JSON, {"error": {"code": "forbidden", "message": "not now", "hint": ""}})
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * asks))
    with peer(answer("200 OK", LINES, *events), unknown, *[refused] * asks) as (url, bodies):
        monkeypatch.setenv("BREAKGLASS_URL", url)
        monkeypatch.setenv("BREAKGLASS_SECRET", new_secret())
        signer = Signer(url, b"k" * 32)
        assert Terminal(signer, ChatClient(signer, session="s")).run() == DONE
    wanted = {"verb": "reset", "vm": "devvm", "reason": "It hangs.", "if_last": "none", "to": url}
    assert [json.loads(body) for body in bodies[2:]] == [wanted] * asks
    assert ("(reset on devvm: too old to approve; ask claude again)\n" in capsys.readouterr().out) == (not asks)


def test_the_page_has_the_same_limit_id_and_prompt() -> None:
    """Claude checks by itself up to the same cost, once for each job, and is asked the same, wherever it is."""
    code = "".join(path.read_text() for path in PAGE.rglob("*.js"))
    assert [float(limit) for limit in re.findall(r"LIMIT_USD = ([0-9.]+)", code)] == [LIMIT_USD]
    assert re.findall(r"`(msg-[^$`]*)\$", code) == [CHECK]
    assert f'"{CHECK_PROMPT}"' in code
