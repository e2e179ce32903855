"""Turns that end early: cancelled, and with their handler or their runner killed or stopped. With the real claude."""

import contextlib
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support import claude
from ..support.model import Model
from ..support.naps import find_processes, nap, outermost, parent, wait_for_process, wait_until_gone
from ..support.signals import signal_process
from ..support.talk import Talker, answer_text, bash, fake, last_error, started

pytestmark = [pytest.mark.real("claude"), pytest.mark.slow]

LONG = "one two three four five six seven eight nine ten"


@pytest.fixture(scope="module")
def talker(model: Model, directory: Path) -> Iterator[Talker]:
    """A handler for the tests that leave it as it was."""
    with started(Talker(directory, model, chat="max_turns_at_once = 8")) as talker:
        yield talker


@pytest.mark.all
def test_a_turn_is_stopped_in_its_text(talker: Talker, model: Model) -> None:
    """Its text so far stays, its processes end, and the session goes on and knows that text."""
    with talker.open(prompt=fake({"text": LONG, "wait": "never"})) as stream:
        session = stream.until("text") and stream.seen[0]
        wait_for_process(session["id"])
        assert talker.ask(cancel=stream.turn).status == 202
        assert last_error(stream.rest())["code"] == "cancelled"
    assert LONG.startswith(answer_text(stream.seen))
    assert answer_text(stream.seen)
    wait_until_gone(session["id"])
    assert answer_text(talker.chat(fake({"text": "here"}), session=session["session"])) == "here"
    assert answer_text(stream.seen).strip() in json.dumps(model.asked[-1].body)
    assert talker.ask(cancel=stream.turn).status == 202  # once more changes nothing


@pytest.mark.all
def test_a_handler_is_killed(model: Model, directory: Path) -> None:
    """By SIGKILL: no process is left, the text so far is in the log, which has an end, and the session goes on."""
    with started(Talker(directory, model)) as talker:
        with talker.open(prompt=fake({"text": LONG, **bash(f"{nap(16)} | {nap(16)}")})) as stream:
            stream.until("tool")
            wait_for_process(nap(16))
            talker.kill()
            with contextlib.suppress(OSError, ValueError):
                stream.rest()
        session = stream.seen[0]
        wait_until_gone(session["id"])
        wait_until_gone(nap(16))
        with started(talker.replica()) as other, other.open(attach=stream.turn) as again:
            events = again.rest()
            assert last_error(events)["code"] == "shutting-down"
            assert LONG.startswith(answer_text(events))
            assert answer_text(events)
            assert answer_text(other.chat(fake({"text": "here"}), session=session["session"])) == "here"


@pytest.mark.all
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
            wait_for_process(nap(18))
            runner = parent(outermost(find_processes(f"--resume={first['id']}")))
            if who == "both":
                talker.kill()
            signal_process(runner, signal.SIGKILL)
            wait_until_gone(first["id"])
            with contextlib.suppress(OSError, ValueError):
                stream.rest()
        with started(talker.replica()) as other, other.open(attach=stream.turn) as again:
            assert last_error(again.rest())["code"] == "claude-crashed"
            assert find_processes(nap(18)) == []
            assert who == "both" or stream.seen == again.seen
            assert answer_text(other.chat(fake({"text": "here"}), session=first["session"])) == "here"


@pytest.mark.all
def test_a_handler_is_stopped(model: Model, directory: Path) -> None:
    """By SIGTERM: every stream has its last line within 5 s, and no process is left."""
    prompt = fake({"text": LONG, "wait": "never"})
    with started(Talker(directory, model)) as talker, talker.open(prompt=prompt) as stream:
        stream.until("text")
        wait_for_process(stream.seen[0]["id"])
        talker.process.terminate()
        assert last_error(stream.rest())["code"] == "shutting-down"
        talker.process.wait(60)  # which waits 4 s for its turns, and on a busy machine they need longer
        wait_until_gone(stream.seen[0]["id"])


@pytest.mark.all
@pytest.mark.real("root")
def test_claude_as_another_user(directory: Path, model: Model) -> None:
    """A turn runs as that user, the next one continues it, and a killed handler ends it across users."""
    directory.chmod(0o711)
    command = json.dumps(str(claude.reachable(claude.UIDS[0], directory)))
    with started(Talker(directory, model, chat=f'uids = "{claude.UID_RANGE}"\ncommand = {command}')) as talker:
        events = talker.chat(fake(bash("id -u"), {"text": "fin"}))
        [uid] = [int(event["text"]) for event in events if event["type"] == "tool_result"]
        assert claude.UIDS[0] <= uid <= claude.UIDS[1]
        assert talker.health()["chat_isolated"] is True
        session = events[0]
        prompt = fake({"text": "one two three four five six", **bash(f"{nap(14)} | {nap(14)}")})
        with talker.open(prompt=prompt, session=session["session"]) as stream:
            stream.until("tool")
            wait_for_process(nap(14))
            talker.kill()
        wait_until_gone(session["id"])
        wait_until_gone(nap(14))
        with started(talker.replica()) as other, other.open(attach=stream.turn) as again:
            assert last_error(again.rest())["code"] == "shutting-down"
            assert answer_text(other.chat(fake({"text": "here"}), session=session["session"])) == "here"
