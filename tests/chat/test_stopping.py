"""Turns that end early: their handler is killed or stopped, or a process of theirs. With the real claude."""

import contextlib
import json
import signal
from pathlib import Path

import pytest

from ..support.model import Model
from ..support.naps import find_processes, nap, outermost, wait_for_process, wait_until_gone
from ..support.signals import signal_process
from ..support.talk import Talker, answer_text, bash, fake, last_error

pytestmark = [pytest.mark.real("claude"), pytest.mark.slow, pytest.mark.all]

LONG = "one two three four five six seven eight nine ten"


def test_a_turn_is_stopped_in_its_text(model: Model, directory: Path) -> None:
    """Its text so far stays, its processes end, and the session continues and knows that text."""
    with Talker(directory, model) as talker:
        with talker.open(prompt=fake({"text": LONG, "wait": "never"})) as stream:
            session = stream.until("text") and stream.seen[0]
            wait_for_process(session["id"])
            assert talker.ask(cancel=stream.turn).status == 202
            assert last_error(stream.rest())["code"] == "cancelled"
        assert LONG.startswith(answer_text(stream.seen).strip() or "?")
        wait_until_gone(session["id"])
        assert answer_text(talker.chat(fake({"text": "here"}), session=session["session"])) == "here"
        assert answer_text(stream.seen).strip() in json.dumps(model.asked[-1].body)


@pytest.mark.parametrize("who", ["the handler", "the turn"])
def test_a_process_is_killed(model: Model, directory: Path, who: str) -> None:
    """After SIGKILL no process is left, the text so far is there with a named end, and the session continues."""
    with Talker(directory, model) as talker:
        first = talker.chat("hello")[0]
        work = {"text": LONG, **bash(f"{nap(18)} | {nap(18)}")}
        with talker.open(prompt=fake(work), session=first["session"]) as stream:
            stream.until("tool")
            wait_for_process(nap(18))
            if who == "the handler":
                talker.kill()
            else:
                signal_process(outermost(find_processes(f"--resume={first['id']}")), signal.SIGKILL)
            wait_until_gone(nap(18))
            wait_until_gone(first["id"])
            with contextlib.suppress(OSError, ValueError):
                stream.rest()
        if who == "the handler":
            talker.start()
        with talker.open(attach=stream.turn) as again:
            events = again.rest()
        assert last_error(events)["code"] == "claude-crashed"
        assert LONG.startswith(answer_text(events).strip() or "?")
        assert answer_text(talker.chat(fake({"text": "here"}), session=first["session"])) == "here"


def test_a_handler_is_stopped(model: Model, directory: Path) -> None:
    """After SIGTERM every stream has its last line within 5 s, and no process is left."""
    prompt = fake({"text": LONG, "wait": "never"})
    with Talker(directory, model) as talker, talker.open(prompt=prompt) as stream:
        stream.until("text")
        wait_for_process(stream.seen[0]["id"])
        talker.process.terminate()
        assert last_error(stream.rest())["code"] == "shutting-down"
        talker.process.wait(60)  # which waits 4 s for its turns, and on a busy machine they need longer
        wait_until_gone(stream.seen[0]["id"])
