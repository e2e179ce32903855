"""Turns that are refused: who gets the last free place, and what a refusal leaves on the disk."""

import os
from pathlib import Path

import pytest

from breakglass.chat import refusals
from breakglass.chat.store import Store
from breakglass.claude.eventlog import build_ending
from breakglass.client import new_id

from ..support.scripted_claude import ScriptedClaude
from ..support.talk import Talker, fake, last_error, started

pytestmark = pytest.mark.slow
PLACES = 3

LONG = "a text that comes in more than one piece"


@pytest.fixture(autouse=True)
def _places_are_free(talker: Talker) -> None:
    talker.wait_for_places()


def test_the_last_place_is_nobodys_second(talker: Talker, claude: ScriptedClaude) -> None:
    """Of three places one caller gets two, and the refusal says what to do; the third is another caller's."""
    prompt = fake({"text": LONG, "wait": "places"})
    with talker.open(prompt=prompt) as one, talker.open(prompt=prompt) as two:
        one.until("text")
        two.until("text")
        refused = talker.chat("three")
        error = last_error(refused)
        assert "session" not in refused[0]  # no conversation that could be continued began
        assert (error["code"], "another caller" in error["message"]) == ("busy", True)
        assert "stop it" in error["hint"]
        with talker.open("operator2", prompt=prompt) as three:
            three.until("text")
            error = last_error(talker.chat("four", "operator2"))
            assert (error["code"], "3 turns" in error["message"]) == ("busy", True)
            claude.release("places")
            for stream in (one, two, three):
                assert stream.rest()[-1]["ok"] is True


def test_a_refusal_is_one_file(talker: Talker, claude: ScriptedClaude) -> None:
    """It answers its id for good, on any replica, and can be attached to and cancelled."""
    store, busy = Store(str(talker.sessions)), new_id()
    session = talker.chat("hello")[0]["session"]
    prompt = fake({"text": LONG, "wait": "file"})
    with talker.open(prompt=prompt, session=session) as stream, started(talker.replica()) as other:
        stream.until("text")
        events = talker.chat("me too", msg_id=busy, session=session)
        assert last_error(events)["code"] == "busy"
        assert store.turn_dir("operator", busy).is_file()
        claude.release("file")
        assert stream.rest()[-1]["ok"] is True
        for handler in (talker, other):
            assert handler.chat("me too", msg_id=busy, session=session) == events
            with handler.open(attach=busy, after=2) as attached:
                assert attached.rest() == events[2:]
            assert handler.ask(cancel=busy).status == 202
            reply = handler.ask(msg_id=busy, prompt="another", session=session)
            assert (reply.status, reply.json["error"]["code"]) == (422, "id-reused")
            reply = handler.ask("operator2", attach=busy)
            assert (reply.status, reply.json["error"]["code"]) == (404, "turn-unknown")


def refuse(store: Store, caller: str, turn: str) -> Path:
    turn_dir = store.turn_dir(caller, turn)
    store.refuse(caller, turn_dir, {"vm": "devvm"}, build_ending("busy", "no place", "wait", 1))
    return turn_dir


def claim(store: Store, turn_dir: Path) -> bool:
    """Begin a turn unless its id is taken."""
    log = store.claim(turn_dir, {"vm": "devvm"}, {"type": "session", "n": 1})
    if log is not None:
        os.close(log)
    return log is not None


def inodes(directory: Path) -> int:
    return len({path.stat().st_ino for path in directory.rglob("*")})


def test_refusals_of_a_caller_are_capped(tmp_path: Path) -> None:
    """Whatever one caller sends, the newest of its refusals stay, and all of another caller's."""
    store = Store(str(tmp_path))
    others = refuse(store, "operator2", "msg_other")
    before = inodes(tmp_path)
    refused = [refuse(store, "operator", f"msg_{n:08}") for n in range(refusals.KEEP + 50)]
    assert inodes(tmp_path) - before == refusals.KEEP + 1  # the directory of the caller
    assert store.metadata(others) == store.metadata(refused[-1]) == {"vm": "devvm"}
    assert not claim(store, refused[-1])
    assert store.metadata(refused[0]) is None
    assert claim(store, refused[0])


def test_an_id_is_refused_or_begun(tmp_path: Path) -> None:
    """The first of two replicas decides, and a refusal is forgotten after a day."""
    store = Store(str(tmp_path))
    begun, refused = store.turn_dir("operator", "begun"), refuse(store, "operator", "refused")
    assert claim(store, begun)
    refuse(store, "operator", "begun")
    assert begun.is_dir()
    assert not claim(store, refused)
    store.prune()
    assert refused.is_file()
    os.utime(refused, (1, 1))
    Store(str(tmp_path)).prune()
    assert (begun.exists(), refused.exists(), len(list((tmp_path / "refused").rglob("*")))) == (True, False, 1)
