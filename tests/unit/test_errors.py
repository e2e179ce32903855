"""The errors of requests that never became a verb: one root, and each class its own code and status."""

from collections.abc import Iterator

import pytest

from breakglass.base import errors
from breakglass.base.errors import BreakglassError, Unauthorized, Unreached
from breakglass.chat import request as chat_errors
from breakglass.config.model import Address, Host
from breakglass.proxmox.connect import unreached
from breakglass.web.replies import error_reply

from ..support.rows import each_row

# PROTOCOL sections 2 and 3: code, HTTP status, reached.
TABLE = {
    errors.Unauthorized: ("unauthorized", 401, False),
    errors.StaleTimestamp: ("stale-timestamp", 401, False),
    errors.Forbidden: ("forbidden", 403, False),
    errors.WrongHandler: ("wrong-handler", 403, False),
    errors.BadRequest: ("bad-request", 400, False),
    errors.NotFound: ("not-found", 404, False),
    errors.MethodNotAllowed: ("method-not-allowed", 405, False),
    errors.TooSlow: ("too-slow", 408, False),
    errors.TooLarge: ("too-large", 413, False),
    errors.IdReused: ("id-reused", 422, False),
    errors.Unreached: ("unreached", 503, False),
    errors.Lost: ("unknown", 503, None),
    chat_errors.SessionInvalid: ("session-invalid", 403, False),
    chat_errors.TurnUnknown: ("turn-unknown", 404, False),
    chat_errors.ChatDisabled: ("chat-disabled", 503, False),
    chat_errors.ChatNotIsolated: ("chat-not-isolated", 503, False),
    chat_errors.SessionsUnwritable: ("sessions-unwritable", 503, False),
}


def classes(root: type[BreakglassError] = BreakglassError) -> Iterator[type[BreakglassError]]:
    for child in root.__subclasses__():
        yield child
        yield from classes(child)


def made(kind: type[BreakglassError]) -> BreakglassError:
    if issubclass(kind, Unauthorized):
        return kind()
    return kind("timeout", "a reason", "a hint") if issubclass(kind, Unreached) else kind("a message", "a hint")


def test_every_error_is_in_the_table() -> None:
    """Every class has the contract's code, status and `reached`, and no two share a code."""
    assert {kind: (kind.code, kind.status, kind.reached) for kind in classes()} == TABLE
    assert len({kind.code for kind in classes()}) == len(TABLE)
    assert (BreakglassError.code, BreakglassError.status, BreakglassError.reached) == ("internal", 500, False)


@each_row("kind", TABLE)
def test_every_error_has_the_same_shape(kind: type[BreakglassError]) -> None:
    """It is one object. Only an answer that did not await the body closes the connection.

    Otherwise, the rest of the body would be read as the next request.
    """
    error = made(kind)
    fields = {"code": kind.code, "message": error.message, "hint": error.hint, "reached": kind.reached}
    assert error.as_json() == {"error": fields}
    assert error.message
    assert error.hint
    closes = error_reply(error).headers.get("connection") == "close"
    assert closes is (kind in (errors.TooSlow, errors.TooLarge))


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


@each_row("error", [ConnectionRefusedError(), TimeoutError(), ConnectionResetError(), OSError("odd")])
def test_a_failed_login_says_what_to_do(error: OSError) -> None:
    """The hint is an instruction and no question."""
    hint = unreached(Host("pve1", Address("breakglass", "192.0.2.10"), ""), error).hint
    assert hint
    assert "?" not in hint
