"""The errors of requests that never became a verb: one root, and each class its own code and status."""

from collections.abc import Iterator

import pytest

from breakglass.base import errors
from breakglass.base.errors import BreakglassError, Unauthorized
from breakglass.web.replies import error_reply

from ..support.rows import each_row


def classes(root: type[BreakglassError] = BreakglassError) -> Iterator[type[BreakglassError]]:
    for child in root.__subclasses__():
        yield child
        yield from classes(child)


def test_only_a_lost_answer_may_have_reached_its_host() -> None:
    """No two classes share a code. docs/api.md has the codes and statuses: tests/unit/test_contract.py."""
    assert [kind for kind in classes() if kind.reached is not False] == [errors.Lost]
    assert errors.Lost.reached is None
    assert len({kind.code for kind in classes()}) == len(list(classes()))
    assert (BreakglassError.code, BreakglassError.status, BreakglassError.reached) == ("internal", 500, False)


@each_row("kind", [errors.TooSlow, errors.TooLarge, errors.BadRequest])
def test_only_an_answer_that_did_not_await_the_body_closes_the_connection(kind: type[BreakglassError]) -> None:
    """Otherwise, the rest of the body would be read as the next request."""
    closes = error_reply(kind("a message", "a hint")).headers.get("connection") == "close"
    assert closes is (kind is not errors.BadRequest)


def test_unauthorized_is_always_the_same_bytes() -> None:
    """The answer has the same bytes for every failed check, and the same as in earlier versions."""
    noted = Unauthorized()
    noted.message, noted.hint, noted.extra = "the key of operator differs", "try phone's", {"id": "msg_12345678"}
    for error in (Unauthorized(), Unauthorized(why="stale"), noted):
        reply = error_reply(error)
        assert reply.status_code == 401
        assert reply.raw_headers == [(b"content-type", b"application/json"), (b"content-length", b"164")]
        assert reply.body == (
            b'{"error":{"code":"unauthorized","message":"the request is not signed by a known caller",'
            b'"hint":"sign it as described in breakglass docs requests","reached":false}}\n'
        )
    with pytest.raises(TypeError):
        Unauthorized("what was wrong")  # type: ignore[call-arg]
