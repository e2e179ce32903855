"""A caller gets its conversations back: the list of them, what was said in one, and a turn that still runs."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from breakglass.chat.conversations import MOST_BYTES, find_conversation, list_conversations, note_turn
from breakglass.chat.sessions import LIFETIME
from breakglass.chat.store import Store
from breakglass.chat.turn_requests import TurnRequest
from breakglass.config.model import Address, Host, Vm

from ..support.model import Model
from ..support.scripted_claude import ScriptedClaude
from ..support.stages import until
from ..support.talk import Event, Talker, fake, started

VM = Vm("devvm", 102, (Host("pve1", Address("breakglass", "127.0.0.1"), ""),))

SIDS = [f"0b6f3f6a-3d0f-4d0e-9d0f-00000000000{number}" for number in range(4)]


def listed(talker: Talker, caller: str = "operator") -> list[dict[str, Any]]:
    answer = talker.ask(caller, list=True)
    assert answer.status == 200, answer.json
    return list(answer.json["sessions"])


def replay(talker: Talker, session: str, caller: str = "operator") -> list[Event]:
    with talker.open(caller, replay=True, session=session) as stream:
        return list(stream)


@pytest.mark.slow
def test_what_was_said_comes_back(talker: Talker) -> None:
    """Each turn as its own stream had it, with what was asked, and then the newest token and the cost of all."""
    first = talker.chat("  Why is it\n hung? " + fake({"text": "one two three four five six"}))
    second = talker.chat(fake({"text": "more"}, {"text": "and more"}), session=first[0]["session"])
    lines = replay(talker, first[0]["session"])
    [one, two] = [line for line in lines if line["type"] == "turn"]
    at = lines.index(two)
    assert (lines[1:at], lines[at + 1 : -1]) == (first, second)
    assert one["prompt"].startswith("  Why is it\n hung? look.")
    assert (one["turn"], one["tools"], one["at"][-1]) == (first[0]["turn"], "", "Z")
    last = lines[-1]
    assert (last["type"], last["left_out"], last["turn"], last["vm"]) == ("replayed", 0, None, "devvm")
    assert last["cost_usd"] == pytest.approx(0.02)
    assert talker.chat("go on", session=last["session"])[0]["resumed"] is True


@pytest.mark.slow
def test_a_list_has_the_callers_own_newest_first(talker: Talker) -> None:
    """With the first words and a token; a further turn brings a conversation to the top; others see nothing of it."""
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
    assert talker.ask("viewer", list=True).status == 403


@pytest.mark.slow
def test_a_turn_under_way_is_named(talker: Talker, claude: ScriptedClaude) -> None:
    """A new tab gets what is there of it, and attaches for the rest."""
    with talker.open(prompt=fake({"text": "one two three four five six seven eight", "wait": "tab"})) as stream:
        session = stream.until("session")["session"]
        stream.until("text")
        assert listed(talker)[0]["turn"] == stream.turn
        lines = replay(talker, session)
        assert [line["type"] for line in lines] == ["turn", "session", "text", "replayed"]
        assert lines[-1]["turn"] == stream.turn
        with talker.open(attach=stream.turn, after=lines[-2]["n"], session=session) as rest:
            claude.release("tab")
            assert list(rest)[-1]["type"] == "done"
    assert listed(talker)[0]["turn"] is None
    assert replay(talker, session)[-1]["turn"] is None


@pytest.mark.slow
def test_another_replica_and_a_killed_one(talker: Talker, claude: ScriptedClaude) -> None:
    """A handler that shares sessions.dir has the same conversations. A turn that was killed has an ending there."""
    replica = talker.replica()
    with started(replica):
        replica.wait_for_chat("on")
        stream = replica.open(prompt=fake({"text": "one two three four five six seven", "wait": "never"}))
        session = stream.until("session")["session"]
        stream.until("text")
        assert [each["id"] for each in listed(replica)] == [each["id"] for each in listed(talker)]
        replica.kill()
        stream.close()
    until(lambda: replay(talker, session)[-1]["turn"] is None, "the end of the turn")
    types = [line["type"] for line in replay(talker, session)]
    assert types == ["turn", "session", "text", "error", "done", "replayed"]


@pytest.mark.all
@pytest.mark.slow
def test_a_long_conversation_is_cut_at_its_beginning(claude: ScriptedClaude, model: Model, directory: Path) -> None:
    """The newest turns come, and always the last one; how many don't is said, and their cost counts."""
    cut = "import breakglass.chat.replay as replay; replay.MOST_BYTES = 3000"
    place = directory / "cut"
    place.mkdir()
    with started(Talker(place, model, chat=claude.chat, patched=cut)) as talker:
        session = ""
        for size in (10, 2000, 10, 10):
            fields = {"session": session} if session else {}
            session = talker.chat(fake({"text": "x" * size}), **fields)[0]["session"]
        lines = replay(talker, session)
        assert (len([line for line in lines if line["type"] == "turn"]), lines[-1]["left_out"]) == (2, 2)
        assert lines[-1]["cost_usd"] == pytest.approx(0.04)
        session = talker.chat(fake({"text": "x" * 4000}), session=session)[0]["session"]
        assert replay(talker, session)[-1]["left_out"] == 4


BODIES = [
    ({"list": False}, "is not true"),
    ({"list": 1}, "is not true"),
    ({"list": True, "vm": "devvm"}, 'unknown field "vm"'),
    ({"replay": True}, '"session" is required'),
    ({"replay": "true", "session": "x"}, "is not true"),
    ({"list": True, "replay": True}, "exactly one of"),
    ({"prompt": "x", "tools": "all"}, 'unknown "tools"'),
    ({"prompt": "x", "tools": ""}, 'unknown "tools"'),
    ({"attach": "msg_12345678", "tools": "host"}, 'unknown field "tools"'),
]


@pytest.mark.slow
@pytest.mark.parametrize("body", BODIES, ids=str)
def test_other_bodies_are_refused(talker: Talker, body: tuple[dict[str, object], str]) -> None:
    fields, why = body
    data = json.dumps(fields).encode()
    answer = talker.send("POST", "/chat", data, talker.signed(data))
    assert (answer.status, why in answer.json["error"]["message"]) == (400, True), answer.json


@pytest.mark.slow
def test_a_session_that_is_not_listed_replays_nothing(talker: Talker) -> None:
    """As one from before there was a list. A token that was changed is refused."""
    session = talker.chat("hello")[0]["session"]
    for each in (talker.sessions / "conversations").rglob("*-*"):
        each.unlink()
    [last] = replay(talker, session)
    assert (last["type"], last["session"], last["vm"]) == ("replayed", None, "devvm")
    assert talker.ask(replay=True, session=f"{session}x").status == 403
    assert talker.chat("go on", session=session)[0]["resumed"] is True
    assert len(replay(talker, session)) > 1


# --- the files ---


def request(number: int, turn: str, prompt: str = "hello") -> TurnRequest:
    return TurnRequest(VM, prompt, SIDS[number], turn=turn, caller="operator", typed=prompt)


def test_damaged_lines_cost_themselves(tmp_path: Path) -> None:
    """A line that was half written, and what is not a turn's, are left out; the next turn is noted all the same."""
    note_turn(tmp_path, "0" * 32, request(0, "msg_11111111", "why?"), 10.0)
    [file] = tmp_path.rglob(SIDS[0])
    with file.open("ab") as end:
        end.write(b'["x", "../../locks", 3, ""]\n[1, 2, 3, 4]\n{}\nnull\n["msg_222')
    note_turn(tmp_path, "1" * 32, request(0, "msg_33333333"), 20.0)
    (file.parent / "notes.txt").write_text("{}")
    (file.parent / SIDS[1]).write_text("")
    (file.parent / SIDS[2]).write_text("no json")
    [found] = list_conversations(tmp_path, "operator")
    assert ([said.turn for said in found.turns], found.words) == (["msg_11111111", "msg_33333333"], "why?")
    assert list_conversations(tmp_path, "another caller") == []
    assert find_conversation(tmp_path, "operator", SIDS[3]) is None


def begin_turn(store: Store, each: TurnRequest, size: int = 0) -> Path:
    """Begin a turn, and end it with a log of a size."""
    turn_dir = store.turn_dir("operator", each.turn)
    log, lock = store.claim(turn_dir, each.record, {"type": "session", "n": 1}), store.lock(each.sid)
    assert log is not None
    assert lock is not None
    store.note_turn(turn_dir, each)
    if size:
        os.truncate(log, size)  # with a hole, so that it takes no room
    for fd in (log, lock):
        os.close(fd)
    return turn_dir


def test_the_oldest_logs_of_a_caller_go_first(tmp_path: Path) -> None:
    """Beyond 256 MiB, across its conversations; another caller's don't count, and the conversations stay."""
    store = Store(str(tmp_path))
    third = MOST_BYTES // 3 + 1
    turns = [begin_turn(store, request(number % 2, f"msg_1111111{number}"), third) for number in range(4)]
    other = replace(request(2, "msg_22222222"), caller="operator2")
    begin_turn(store, other)
    store.prune()
    assert [turn.exists() for turn in turns] == [False, False, True, True]
    assert store.turn_dir("operator", other.turn).exists()
    assert len(store.list_conversations("operator")) == 2


def test_a_conversation_goes_with_its_session(tmp_path: Path) -> None:
    """Thirty days after its last turn, with its logs."""
    store = Store(str(tmp_path))
    turns = [begin_turn(store, request(number, f"msg_1111111{number}")) for number in range(2)]
    old = time.time() - LIFETIME - 60
    for path in (turns[0] / "log", tmp_path / "locks" / SIDS[0]):
        os.utime(path, (old, old))
    store.prune()
    assert [turn.exists() for turn in turns] == [False, True]
    assert [each.sid for each in store.list_conversations("operator")] == [SIDS[1]]
