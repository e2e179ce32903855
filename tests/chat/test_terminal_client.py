"""The terminal's side of /chat: what it makes of a replay, and of a turn that another client began."""

import io
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from breakglass.cli.conversation import CHECK, ChatClient
from breakglass.cli.output import DONE
from breakglass.cli.terminal import Terminal
from breakglass.cli.terminal_text import CHECK_PROMPT, LIMIT_USD
from breakglass.client import Event, Signer

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
        {"type": "approval", "n": 1, "verb": "reset", "vm": "devvm", "job": "job_1", "why": "Hung.", "last": "none"},
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
    wanted = {"verb": "reset", "vm": "devvm", "reason": "Hung.", "if_last": "none", "to": url}
    assert [json.loads(body) for body in bodies[2:]] == [wanted] * asks
    assert ("too old" in capsys.readouterr().out) == (not asks)


def test_the_page_has_the_same_limit_id_and_prompt() -> None:
    """Claude checks by itself up to the same cost, once for each job, and is asked the same, wherever it is."""
    code = "".join(path.read_text() for path in PAGE.rglob("*.js"))
    assert [float(limit) for limit in re.findall(r"LIMIT_USD = ([0-9.]+)", code)] == [LIMIT_USD]
    assert re.findall(r"`(msg-[^$`]*)\$", code) == [CHECK]
    assert f'"{CHECK_PROMPT}"' in code
