"""Turns that end early: cancelled, and with their handler or their runner killed or stopped. With the real claude."""

import contextlib
import json
import os
import pwd
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support import claude
from ..support.model import Model
from ..support.naps import gone, nap, parent, running, there
from ..support.talk import Talker, bash, fake, last_error, said, started

pytestmark = [pytest.mark.real("claude"), pytest.mark.slow]

LONG = "one two three four five six seven eight nine ten"


@pytest.fixture(scope="module")
def talker(model: Model, directory: Path) -> Iterator[Talker]:
    """A handler for the tests that leave it as it was."""
    with started(Talker(directory, model, chat="max_turns_at_once = 8")) as talker:
        yield talker


def test_a_turn_is_stopped_in_its_text(talker: Talker, model: Model) -> None:
    """Its text so far stays, its processes end, and the session goes on and knows that text."""
    with talker.open(prompt=fake({"text": LONG, "wait": "never"})) as stream:
        session = stream.until("text") and stream.seen[0]
        there(session["id"])
        assert talker.ask(cancel=stream.turn).status == 202
        assert last_error(stream.rest())["code"] == "cancelled"
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
    """By SIGKILL: no process is left, the text so far is in the log, which has an end, and the session goes on."""
    steps = [{"text": LONG, "wait": "never"}] if where == "text" else [{"text": LONG, **bash(f"{nap(16)} | {nap(16)}")}]
    with started(Talker(directory, model)) as talker:
        with talker.open(prompt=fake(*steps)) as stream:
            stream.until(where)
            there(nap(16) if where == "tool" else stream.seen[0]["id"])
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
    """The command ends although its runner can't end it, and only then the session is free.

    The first reader that finds the log without an ending writes one, at this handler or at the next.
    """
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
        there(nap(17) if where == "tool" else stream.seen[0]["id"])
        talker.process.terminate()
        assert last_error(stream.rest())["code"] == "shutting-down"
        talker.process.wait(60)
        gone(stream.seen[0]["id"], 0)
        assert running(nap(17)) == []


@pytest.mark.real("root")
def test_claude_as_another_user(directory: Path, model: Model) -> None:
    """A turn runs as that user, the next one continues it, and a killed handler ends it across users."""
    directory.chmod(0o711)
    command = json.dumps(str(claude.reachable(pwd.getpwnam("nobody").pw_uid, directory)))
    with started(Talker(directory, model, chat=f'user = "nobody"\ncommand = {command}')) as talker:
        events = talker.chat(fake(bash("id -un"), {"text": "fin"}))
        assert [event["text"] for event in events if event["type"] == "tool_result"] == ["nobody"]
        assert talker.health()["chat_isolated"] is True
        session = events[0]
        prompt = fake({"text": "one two three four five six", **bash(f"{nap(14)} | {nap(14)}")})
        with talker.open(prompt=prompt, session=session["session"]) as stream:
            stream.until("tool")
            there(nap(14))
            talker.kill()
        gone(session["id"])
        gone(nap(14), 0)
        with started(talker.replica()) as other, other.open(attach=stream.turn) as again:
            assert last_error(again.rest())["code"] == "shutting-down"
            assert said(other.chat(fake({"text": "here"}), session=session["session"])) == "here"
