"""What the model API can do to a turn: each failure has its code and sentence. With the real claude."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.model import Model
from ..support.ports import reserve_port
from ..support.talk import Talker, answer_text, fake, last_error

pytestmark = [pytest.mark.real("claude"), pytest.mark.all]


@pytest.fixture(scope="module")
def talker(model: Model, directory: Path) -> Iterator[Talker]:
    """A handler for all tests; one that changes its configuration changes it back."""
    with Talker(directory, model, CLAUDE_CODE_MAX_RETRIES="0") as talker:
        yield talker


@pytest.mark.parametrize(
    ("step", "code", "words"),
    [
        ({"fail": 401}, "claude-auth", "Invalid API key"),
        ({"fail": 529}, "claude-overloaded", "HTTP 529"),
        ({"fail": 429, "retry_after": 3600}, "claude-rate-limited", "rate limit"),
        ({"fail": "html"}, "claude-unreachable", "HTTP 200"),
    ],
)
def test_failures_of_the_api(talker: Talker, model: Model, step: dict[str, object], code: str, words: str) -> None:
    """Each has its own sentence, once, after two more tries at most: claude's own ten tries take three minutes.

    A credential that the API refuses has a hint that says where to put a good one.
    """
    before = len(model.asked)
    events = talker.chat(fake({"text": "never said", **step}))
    error = last_error(events)
    assert (error["code"], answer_text(events)) == (code, "")
    assert words in error["message"]
    assert error["hint"]
    assert (code == "claude-auth") is ("chat.credential_file" in error["hint"])
    assert len(model.asked) - before <= 3


def test_an_api_that_is_down(talker: Talker, model: Model) -> None:
    """The error names the address and the reason."""
    with talker.changed(model.url, url := f"http://127.0.0.1:{reserve_port()}"):
        error = last_error(talker.chat("hello"))
    assert error["code"] == "claude-unreachable"
    assert error["message"].endswith(f"{url}: Connection refused.")
