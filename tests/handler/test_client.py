"""The client's reaction to a missing handler, to another server in its place, to a lost answer and a refused clock."""

import json

import pytest

from breakglass.auth.signing import secret_bytes
from breakglass.cli.main import main
from breakglass.client import HandlerError, NoAnswer, Signer, VerbCall, call, new_id, post

from ..support.peer import JSON, LINES, answer, peer
from ..support.rows import each_row
from ..support.service import new_secret

STALE: dict[str, object] = {"error": {"code": "stale-timestamp", "message": "old", "challenge": "c1"}}


@each_row("path", ["/pve", "/chat"])
def test_a_challenge_is_answered_once(path: str) -> None:
    """The client sends the same request again with the challenge. A second challenge is an error and not a loop."""
    done = answer("200 OK", LINES, {"type": "done", "n": 1})
    with peer(answer("401 Unauthorized", JSON, STALE), done) as (url, bodies):
        events = list(post(Signer(url, b"k" * 32), path, "msg_12345678", {"vm": "devvm"}))
    assert events == [{"type": "done", "n": 1}]
    first = {"vm": "devvm", "to": url}
    assert [json.loads(body) for body in bodies] == [first, {**first, "challenge": "c1"}]
    refused = answer("401 Unauthorized", JSON, STALE)
    with peer(refused, refused) as (url, bodies), pytest.raises(HandlerError, match="old"):
        list(post(Signer(url, b"k" * 32), path, "msg_12345678", {}))
    assert len(bodies) == 2


@each_row(
    ("reply", "message"),
    [
        ("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\noops", r"\(HTTP 502\) is not from breakglass"),
        (answer("200 OK", LINES) + "[1]\n", "a line that breakglass did not send"),
        (answer("200 OK", LINES) + '{"type":', "Expecting value"),
    ],
)
def test_an_answer_that_is_not_a_handlers_may_have_been_sent(reply: str, message: str) -> None:
    """After a proxy's page, a strange line or half a line, `sent` is true, so the request may have arrived."""
    with peer(reply) as (url, _), pytest.raises(NoAnswer, match=message) as lost:
        list(post(Signer(url, b"k" * 32), "/pve", "msg_12345678", {}))
    assert lost.value.sent


DONE: dict[str, object] = {"type": "result", "outcome": "done", "state": "running", "verb": "cycle", "vm": "devvm"}


@pytest.mark.slow  # `call` waits before it sends a request again
def test_a_repeated_request_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `again`, the handler asks every host of the VM whether it knows the id.

    So does `call` after a lost answer, and the command with `--id`, which names an earlier request.
    """
    secret, done = new_secret(), answer("200 OK", LINES, {**DONE, "id": "msg_12345678"})
    with peer("", done) as (url, bodies):
        found = call(Signer(url, secret_bytes(secret)), new_id(), VerbCall("cycle"), lambda line: None)
    assert found["outcome"] == "done"
    assert [json.loads(body).get("again") for body in bodies] == [None, True]
    with peer(done) as (url, bodies):
        monkeypatch.setenv("BREAKGLASS_URL", url)
        monkeypatch.setenv("BREAKGLASS_SECRET", secret)
        monkeypatch.setattr("sys.argv", ["breakglass", "call", "cycle", "--quiet", "--id", new_id()])
        main()
    assert [json.loads(body).get("again") for body in bodies] == [True]
