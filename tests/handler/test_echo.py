"""POST /echo and /echo/arrived: what arrives here of a request, for doctor."""

import hashlib
import json
import time

import pytest

from ..support.service import Reply, Service

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd", "service")]


def echo(service: Service, at: int | None = None, stream: bool = False, msg_id: str = "", **fields: object) -> Reply:
    body = json.dumps(fields).encode()
    accept = {"accept": "application/x-ndjson"} if stream else {}
    return service.send("POST", "/echo", body, {**service.signed(body, at=at, msg_id=msg_id), **accept})


def test_what_arrived_is_told_to_anyone(service: Service) -> None:
    """Digests of the headers that are known, and of the body; other headers are not told."""
    sent = {"webhook-id": "a, b", "authorization": "Bearer x", "cookie": "secret"}
    reply = service.send("POST", "/echo/arrived", b"\x00\xff", sent)
    digests = {name: hashlib.sha256(sent[name].encode()).hexdigest() for name in ("webhook-id", "authorization")}
    assert reply.json == {"headers": digests, "body": hashlib.sha256(b"\x00\xff").hexdigest(), "bytes": 2}
    assert "no-store" in reply.headers["cache-control"]
    assert service.send("POST", "/echo/arrived", bytes(2**20)).json["bytes"] == 2**20
    assert service.send("POST", "/echo/arrived", bytes(2**20 + 1)).json["error"]["code"] == "too-large"


def test_a_signed_request_is_answered_after_its_seconds(service: Service) -> None:
    began = time.monotonic()
    found = echo(service, seconds="1").json
    assert time.monotonic() - began >= 1
    assert (found["caller"], len(found["config"]), len(found["instance"])) == ("operator", 64, 16)
    assert abs(found["time"] - time.time()) < 60
    lines = echo(service, stream=True, seconds="1").lines
    assert [line["type"] for line in lines] == ["ping", "result"]


@pytest.mark.parametrize("fields", [{"seconds": "-1"}, {"seconds": "1e3"}, {"seconds": 1}, {"verb": "reset"}])
def test_other_bodies_are_refused(service: Service, fields: dict[str, object]) -> None:
    body = json.dumps(fields).encode()
    reply = service.send("POST", "/echo", body, service.signed(body))
    assert reply.json["error"]["code"] == "bad-request"


def test_it_is_signed_like_a_verb(service: Service) -> None:
    """Not with a bearer token, not without a signature; a wrong clock is answered with a challenge that works."""
    assert service.send("POST", "/echo", b"{}").status == 401
    assert service.send("POST", "/echo", b"{}", {"authorization": "Bearer bgt_" + "t" * 43}).status == 401
    late, msg_id = int(time.time()) - 900, "msg_echo_is_late"
    error = echo(service, at=late, msg_id=msg_id).json["error"]
    assert error["code"] == "stale-timestamp"
    assert echo(service, at=late, msg_id=msg_id, challenge=error["challenge"]).json["caller"] == "operator"
