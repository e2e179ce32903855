"""Chat switched on and off by a reload, or off because it can't be loaded: no verb and no turn suffers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.model import Model
from ..support.scripted_claude import ScriptedClaude
from ..support.selection import sampled
from ..support.service import Reply
from ..support.sshd import Sshd
from ..support.talk import Talker, fake, last_error, started

pytestmark = pytest.mark.slow

WAITING = {"text": "one two three four five six seven eight", "wait": "reload"}


@pytest.fixture(scope="module")
def talker(claude: ScriptedClaude, model: Model, directory: Path) -> Iterator[Talker]:
    """A handler for all tests; one that changes its configuration changes it back."""
    with started(Talker(directory, model, chat=claude.chat)) as talker:
        assert talker.chat("hello")[-1]["ok"] is True
        yield talker


def refusal(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.json["error"]["code"]


@pytest.mark.parametrize(
    ("old", "new", "state", "code"),
    sampled(
        [
            ("shared_uid = true", "shared_uid = false", "chat-not-isolated", "chat-not-isolated"),
            ("shared_uid = true", "shared_uid = 3", "disabled", "chat-disabled"),
            ("shared_uid = true", 'uids = "65500-65563"', "chat-not-isolated", "chat-not-isolated"),
            ("[chat]", "[chatt]", "none", "chat-disabled"),
        ],
        ("shared_uid = true", "shared_uid = false", "chat-not-isolated", "chat-not-isolated"),
        ("[chat]", "[chatt]", "none", "chat-disabled"),
    ),
)
def test_each_reason_for_chat_to_be_off(talker: Talker, old: str, new: str, state: str, code: str) -> None:
    """Not isolated, faulty or absent: each has its code, verbs answer, and chat is on again after a reload."""
    with talker.changed(old, new):
        health = talker.health()
        assert (health["chat"], health["chat_isolated"]) == (state, None)
        assert refusal(talker.ask(prompt="hello")) == refusal(talker.ask(attach="msg_12345678")) == (503, code)
        assert talker.pve("status").json["outcome"] == "unreached"
    health = talker.health()
    assert (health["chat"], health["chat_isolated"]) == ("on", False)
    assert talker.chat("hello")[-1]["ok"] is True


def test_a_reload_interrupts_no_turn(talker: Talker, claude: ScriptedClaude) -> None:
    """A turn goes on to its end although chat is switched off meanwhile, and can be read again later."""
    with talker.open(prompt=fake(WAITING)) as stream:
        stream.until("text")
        with talker.changed("[chat]", "[chatt]"):
            assert talker.health()["chat"] == "none"
            claude.release("reload")
            assert stream.rest()[-1]["ok"] is True
    with talker.open(attach=stream.turn) as again:
        assert again.rest() == stream.seen


def test_a_turn_can_be_stopped_when_chat_was_switched_off(talker: Talker) -> None:
    """After a reload that switched chat off, a turn that still runs can be stopped."""
    with talker.open(prompt=fake({**WAITING, "wait": "never"})) as stream:
        stream.until("text")
        with talker.changed("[chat]", "[chatt]"):
            assert talker.health()["chat"] == "none"
            assert talker.ask(cancel=stream.turn).json == {"cancelled": stream.turn}
            assert last_error(stream.rest())["code"] == "cancelled"


def test_a_callers_vms_hold(talker: Talker) -> None:
    """A caller without the VM, or who lost it, has no turn there."""
    first = talker.chat("hello")[0]
    text = talker.config.read_text()
    twin = text[text.index("[vms.devvm]") : text.index("[sessions]")].replace("devvm", "twin").replace("102", "103")
    with talker.changed("[sessions]\n", f"{twin}\n[sessions]\n"):
        assert refusal(talker.ask(prompt="which?")) == (400, "bad-request")
        with talker.changed("[callers.operator]\n", '[callers.operator]\nvms = ["twin"]\n'):
            assert refusal(talker.ask(prompt="hello", vm="devvm")) == (403, "forbidden")
            assert refusal(talker.ask(prompt="go on", session=first["session"])) == (403, "forbidden")
            assert refusal(talker.ask(attach=first["turn"])) == (404, "turn-unknown")
            assert talker.chat("hello", vm="twin")[-1]["ok"] is True


@pytest.mark.all
@pytest.mark.real("sshd")
def test_chat_that_can_not_be_imported_stops_no_verb(sshd: Sshd, model: Model, tmp_path: Path) -> None:
    """A library of chat's alone is broken: chat is off with the reason in the log, and a verb reaches its host."""
    (tmp_path / "itsdangerous.py").write_text('raise ImportError("half an upgrade")')
    broken = f"sys.path.insert(0, {str(tmp_path)!r})"
    with started(Talker(sshd.world.directory, model, host=sshd, patched=broken)) as talker:
        talker.answering()
        talker.wait_for_chat("failed")
        health = talker.health()
        assert (health["ok"], health["chat"], health["chat_isolated"]) == (True, "failed", None)
        reply = talker.ask(prompt="hello")
        assert (reply.status, reply.json["error"]["code"]) == (503, "chat-disabled")
        assert talker.pve("status").json["state"] == "running"
        assert talker.pve("reset").json["outcome"] == "done"
        notes = [json.loads(line) for line in talker.logged('"chat-failed"').splitlines()]
    [failure] = [note for note in notes if note.get("event") == "chat-failed"]
    assert "half an upgrade" in failure["error"]
