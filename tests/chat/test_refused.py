"""Turns that are refused: who gets the last free place, and what a refusal leaves on the disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.model import Model
from ..support.scripted_claude import ScriptedClaude
from ..support.talk import Talker, fake, last_error, started

pytestmark = pytest.mark.slow

LONG = "a text that comes in more than one piece"


@pytest.fixture(scope="module")
def claude(directory: Path) -> ScriptedClaude:
    return ScriptedClaude(directory)


@pytest.fixture(scope="module")
def talker(claude: ScriptedClaude, model: Model, directory: Path) -> Iterator[Talker]:
    with started(Talker(directory, model, chat=claude.chat)) as talker:
        yield talker


def test_the_last_place_is_nobodys_second(talker: Talker, claude: ScriptedClaude) -> None:
    """Of three places one caller gets two, and the refusal says what to do; the third is another caller's."""
    prompt = fake({"text": LONG, "wait": "places"})
    with talker.open(prompt=prompt) as one, talker.open(prompt=prompt) as two:
        one.until("text")
        two.until("text")
        error = last_error(talker.chat("three"))
        assert (error["code"], "another caller" in error["message"]) == ("busy", True)
        assert "stop it" in error["hint"]
        with talker.open("operator2", prompt=prompt) as three:
            three.until("text")
            error = last_error(talker.chat("four", "operator2"))
            assert (error["code"], "3 turns" in error["message"]) == ("busy", True)
            claude.release("places")
            for stream in (one, two, three):
                assert stream.rest()[-1]["ok"] is True
