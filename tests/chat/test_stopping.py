"""Turns that end early, because their handler is killed or stopped. With the real claude."""

from pathlib import Path

import pytest

from ..support.model import Model
from ..support.naps import nap, wait_for_process, wait_until_gone
from ..support.talk import Talker, answer_text, bash, fake, last_error

pytestmark = [pytest.mark.real("claude"), pytest.mark.slow, pytest.mark.all]

LONG = "one two three four five six seven eight nine ten"


def test_a_handler_is_killed_and_another_one_stopped(model: Model, directory: Path) -> None:
    """After SIGKILL no process is left, the text so far is there with a named end, and the session continues.

    After SIGTERM each stream has its last line, and no process is left.
    """
    with Talker(directory, model) as talker:
        first = talker.chat("hello")[0]
        work = {"text": LONG, **bash(f"{nap(18)} | {nap(18)}")}
        with talker.open(prompt=fake(work), session=first["session"]) as stream:
            stream.until("tool")
            wait_for_process(nap(18))
            talker.kill()
            wait_until_gone(nap(18))
            wait_until_gone(first["id"])
        talker.start()
        with talker.open(attach=stream.turn) as again:
            events = again.rest()
        assert last_error(events)["code"] == "claude-crashed"
        assert LONG.startswith(answer_text(events).strip() or "?")

        prompt = fake({"text": LONG, "wait": "never"})
        with talker.open(prompt=prompt, session=first["session"]) as stream:
            stream.until("text")
            wait_for_process(first["id"])
            talker.process.terminate()
            assert last_error(stream.rest())["code"] == "shutting-down"
        talker.process.wait(60)  # which waits 4 s for its turns, and on a busy machine they need longer
        wait_until_gone(first["id"])
