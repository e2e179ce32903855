"""Fixtures: a handler with a program in claude's place."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.model import Model
from ..support.scripted_claude import ScriptedClaude
from ..support.talk import Talker


@pytest.fixture(scope="module")
def claude(directory: Path) -> ScriptedClaude:
    """A program in the place of `claude`, shared by all tests of a file."""
    return ScriptedClaude(directory)


@pytest.fixture(scope="module")
def talker(claude: ScriptedClaude, model: Model, directory: Path, request: pytest.FixtureRequest) -> Iterator[Talker]:
    """A handler that all tests of a file share and don't change. If the file has PLACES, it also has metrics."""
    places = getattr(request.module, "PLACES", 0)
    chat = f"max_turns_at_once = {places}\n{claude.chat}" if places else claude.chat
    with Talker(directory, model, chat=chat, metrics=bool(places)) as talker:
        talker.wait_for_chat("on")
        yield talker
