"""Chat on, off and apart: claude as another user, what `/health` says, and that a reload or a fault stops no verb."""

import json
import pwd
import signal
import time
from pathlib import Path

import pytest

from ..support import claude
from ..support.model import Model
from ..support.service import Reply
from ..support.talk import Talker, bash, fake, gone, last_error, nap, running, said, started, there

pytestmark = [pytest.mark.real("claude"), pytest.mark.slow]


def settled(talker: Talker, state: str) -> dict[str, object]:
    """Return what /health says once chat is in a state."""
    until = time.monotonic() + 20
    while (health := talker.health())["chat"] != state:
        assert time.monotonic() < until, health
        time.sleep(0.02)
    return health


def reload(talker: Talker, old: str, new: str) -> None:
    talker.config.write_text(talker.config.read_text().replace(old, new))
    talker.process.send_signal(signal.SIGHUP)


def told(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.json["error"]["code"]


@pytest.mark.real("root")
def test_claude_as_another_user(directory: Path, model: Model) -> None:
    """A turn runs as that user, goes on in the next one, and is ended across users when the handler is killed."""
    directory.chmod(0o711)
    command = json.dumps(str(claude.reachable(pwd.getpwnam("nobody").pw_uid, directory)))
    with started(Talker(directory, model, chat=f'user = "nobody"\ncommand = {command}')) as talker:
        assert settled(talker, "on")["chat_isolated"] is True
        events = talker.chat(fake(bash("id -un"), {"text": "fin"}))
        assert [event["text"] for event in events if event["type"] == "tool_result"] == ["nobody"]
        session = events[0]
        prompt = fake({"text": "one two three four five six", **bash(f"{nap(14)} | {nap(14)}")})
        with talker.open(prompt=prompt, session=session["session"]) as stream:
            stream.until("tool")
            there(nap(14))
            talker.kill()
        gone(session["id"])
        assert running(nap(14)) == []
        with started(talker.replica()) as other, other.open(attach=stream.turn) as again:
            assert last_error(again.rest())["code"] == "shutting-down"
            assert said(other.chat(fake({"text": "here"}), session=session["session"])) == "here"


def test_chat_is_off_until_somebody_says_otherwise(directory: Path, model: Model) -> None:
    """Not isolated, faulty, absent, on: a reload moves between them, each has its code, and the verbs answer in all."""
    both = [{"prompt": "hello"}, {"attach": "msg_12345678"}]
    with started(Talker(directory, model)) as talker:
        assert settled(talker, "on")["chat_isolated"] is False
        for old, new, state, code in (
            ("shared_uid = true", "shared_uid = false", "chat-not-isolated", "chat-not-isolated"),
            ("shared_uid = false", "shared_uid = 3", "config-error", "chat-off"),
            ("shared_uid = 3", 'user = "no-such-user"', "chat-not-isolated", "chat-not-isolated"),
            ("[chat]", "[chatt]", "off", "chat-off"),
        ):
            reload(talker, old, new)
            assert settled(talker, state)["chat_isolated"] is None
            assert [told(talker.ask("operator", "", **fields)) for fields in both] == [(503, code)] * 2
            assert talker.pve("status").json["outcome"] == "unreached"
        reload(talker, '[chatt]\nuser = "no-such-user"', "[chat]\nshared_uid = true")
        settled(talker, "on")
        assert talker.chat("hello")[-1]["ok"] is True


def test_a_reload_interrupts_no_turn(directory: Path, model: Model) -> None:
    """What was begun goes on to its end, also when there is no chat any more; then it can be read again."""
    with started(Talker(directory, model)) as talker:
        with talker.open(prompt=fake({"text": "one two three four five six", "wait": "reload"})) as stream:
            stream.until("text")
            reload(talker, "[chat]", "[chatt]")
            settled(talker, "off")
            model.release("reload")
            assert stream.rest()[-1]["ok"] is True
        reload(talker, "[chatt]", "[chat]")
        settled(talker, "on")
        with talker.open(attach=stream.turn) as again:
            assert again.rest() == stream.seen


def test_a_turn_can_be_stopped_when_chat_was_switched_off(directory: Path, model: Model) -> None:
    """Whoever switched chat off by a reload, on purpose or by a slip, can still stop what runs."""
    with started(Talker(directory, model)) as talker:
        prompt = fake({"text": "one two three four five six", "wait": "never released"})
        with talker.open(prompt=prompt) as stream:
            stream.until("text")
            reload(talker, "[chat]", "[chatt]")
            settled(talker, "off")
            assert talker.ask(cancel=stream.turn).json == {"cancelled": stream.turn}
            stream.rest()
            assert last_error(stream.seen)["code"] == "cancelled"


def test_a_callers_vms_hold(directory: Path, model: Model) -> None:
    """A caller without the VM, or who lost it, has no turn there."""
    with started(Talker(directory, model)) as talker:
        first = talker.chat("hello")[0]
        other = talker.config.read_text().replace("[vms.devvm]", "[vms.twin]")
        twin = other[other.index("[vms.twin]") : other.index("[sessions]")].replace("102", "103")
        reload(talker, "[sessions]", f"{twin}\n[sessions]")
        until = time.monotonic() + 20
        while len(talker.health()["vms"]) < 2:
            assert time.monotonic() < until
        assert told(talker.ask(prompt="which?")) == (400, "bad-request")
        reload(talker, "[callers.operator]\n", '[callers.operator]\nvms = ["twin"]\n')
        until = time.monotonic() + 20
        while (reply := talker.ask(prompt="hello", vm="devvm")).status == 200:
            assert time.monotonic() < until
        assert told(reply) == (403, "forbidden")
        assert told(talker.ask(prompt="go on", session=first["session"])) == (403, "forbidden")
        assert told(talker.ask(attach=first["turn"])) == (404, "turn-unknown")
        assert talker.chat("hello", vm="twin")[-1]["ok"] is True
