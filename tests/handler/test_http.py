"""The handler's answers to wrong requests and to incomplete ones."""

import hashlib
import json
import socket

import pytest

from ..support.rows import each_row
from ..support.service import Service

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd", "service")]

UNSIGNED = [
    {},
    {"webhook-id": "msg_12345678", "webhook-timestamp": "1795526935", "webhook-signature": "v1,garbage"},
    {"authorization": "Bearer bgt_nothing"},
    {"x-authentik-username": "operator", "x-forwarded-user": "operator"},
]


def test_every_unsigned_request_gets_the_same_answer(service: Service) -> None:
    """The bytes are the same without headers, with bad ones, a signature of other bytes or a stranger's key."""
    body = b'{"verb":"reset"}'
    cases = [*UNSIGNED, service.signed(b'{"verb":"stop"}'), service.signed(body) | {"webhook-id": "msg_another_one"}]
    replies = [service.send("POST", "/pve", body, headers) for headers in cases]
    replies.append(service.send("POST", "/pve", b"\xff not json", UNSIGNED[1]))
    assert {reply.status for reply in replies} == {401}
    assert len({reply.body for reply in replies}) == 1
    assert replies[0].json["error"]["reached"] is False


def test_what_is_too_long_is_413_before_authentication(service: Service) -> None:
    """The limit is 16 KiB, both of the declared length and of the bytes that arrive, and 32 KiB for the headers."""
    assert service.send("POST", "/pve", bytes(16 * 1024 + 1)).status == 413
    assert service.send("POST", "/pve", bytes(16 * 1024)).status == 401
    chunks = b"transfer-encoding: chunked\r\n\r\n" + b"1000\r\n%s\r\n" % bytes(4096) * 17
    for more in (chunks, b"x: " + b"a" * 40_000):
        with socket.create_connection(("127.0.0.1", service.port), 30) as client:
            client.sendall(b"POST /pve HTTP/1.1\r\nhost: x\r\n" + more)
            assert client.recv(65536).startswith(b"HTTP/1.1 413")


WRONG = [
    *(("GET", "/pve", 405, "POST"), ("PUT", "/pve", 405, "POST"), ("POST", "/", 405, "GET, HEAD")),
    *(("GET", path, 404, "") for path in ("/nothing", "/..%2fhandler/app.py", "/../pyproject.toml", "//etc/passwd")),
]


@each_row(("method", "path", "status", "allowed"), WRONG)
def test_wrong_addresses_and_methods_get_their_errors(
    service: Service, method: str, path: str, status: int, allowed: str
) -> None:
    """404 and 405 have the shape of every other error. A 405 names the methods of the address (RFC 9110)."""
    reply = service.send(method, path)
    assert (reply.status, reply.json["error"]["reached"]) == (status, False)
    assert sorted(reply.headers.get("allow", "").split(", ")) == allowed.split(", ")


def test_security_headers(service: Service) -> None:
    """The page and the API have them all, and a file on which a browser ignores the others has its own."""
    page, health = service.send("GET", "/"), service.send("GET", "/health")
    others = [service.send("GET", path) for path in ("/index.html", "/sw.js", "/icon.svg", "/nothing", "/alert/x.js")]
    for reply in (page, health, service.send("POST", "/pve"), service.send("POST", "/alert/x.js"), *others):
        assert reply.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cross-origin-opener-policy"] == "same-origin"
        assert "access-control-allow-origin" not in reply.headers
        assert "server" not in reply.headers
    for path in ("/app.js", "/state/store.js", "/style.css"):  # files on which a browser ignores the other headers
        part = service.send("GET", path).headers
        assert (part["x-content-type-options"], part["cache-control"]) == ("nosniff", "no-cache, no-transform")
        assert "content-security-policy" not in part
    assert "manifest-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-cache, no-transform"
    assert health.headers["cache-control"].startswith("no-store")


def test_health_has_no_secret_and_no_address(service: Service) -> None:
    """/health needs no authentication, so it has only names and states."""
    health = service.health()
    chat = {"chat", "chat_isolated", "chat_started_by", "notify"}
    assert set(health) == {"ok", "time", "version", "config", "reloads", "hosts", "vms", *chat}
    assert health["vms"][0].keys() == {"name", "vmid", "proxmox", "since", "host"}
    assert health["hosts"]["pve1"].keys() == {"state", "since", "agent", "proven"}
    assert "127.0.0.1" not in json.dumps(health)


def test_what_arrived_is_told_to_anyone(service: Service) -> None:
    """The answer has digests of the known headers and of the body. It has no other headers."""
    sent = {"webhook-id": "a, b", "authorization": "Bearer x", "cookie": "secret"}
    reply = service.send("POST", "/echo/arrived", b"\x00\xff", sent)
    digests = {name: hashlib.sha256(sent[name].encode()).hexdigest() for name in ("webhook-id", "authorization")}
    assert reply.json == {"headers": digests, "body": hashlib.sha256(b"\x00\xff").hexdigest(), "bytes": 2}
    assert "no-store" in reply.headers["cache-control"]
    assert service.send("POST", "/echo/arrived", bytes(2**20)).json["bytes"] == 2**20
    assert service.send("POST", "/echo/arrived", bytes(2**20 + 1)).json["error"]["code"] == "too-large"


# --- another handler ---


A, B = "https://a.example/", "https://b.example/rescue/"


def test_what_was_signed_for_one_handler_is_refused_by_another(service: Service) -> None:
    """A request for A is replayed unchanged to B, which sends nothing to a host. Each body of /chat is compared too.

    Without [server] url, nothing is compared.
    """
    assert service.pve("status", to=A).json["outcome"] == "done"
    before = service.pve("history").json["jobs"]
    body = json.dumps({"verb": "reset", "vm": "devvm", "to": A}).encode()
    with service.configured(f'{service.config.read_text()}\n[server]\nurl = ["{B}", "https://B.example:8443"]\n'):
        for accept in ("*/*", "application/x-ndjson"):
            reply = service.send("POST", "/pve", body, {**service.signed(body), "accept": accept})
            error = reply.json["error"]
            assert (reply.status, error["code"], error["reached"], error["url"]) == (403, "wrong-handler", False, B)
        for fields in ({"prompt": "hi"}, {"attach": "msg_12345678"}, {"cancel": "msg_12345678"}):
            for to, code in ((A, "wrong-handler"), (B, "forbidden")):  # chat is disabled here
                body = json.dumps({**fields, "to": to}).encode()
                reply = service.send("POST", "/chat", body, service.signed(body))
                assert (reply.status, reply.json["error"]["code"]) == (403, code)
    assert service.pve("history").json["jobs"] == before


def test_a_header_that_is_sent_twice_is_not_signed(service: Service) -> None:
    """With two signature headers, a request is refused even if one is good, because either could count."""
    body = b'{"verb":"status"}'
    good = service.signed(body)
    lines = [f"{name}: {value}" for name, value in good.items()] + ["webhook-signature: v1,AAAA"]
    head = "\r\n".join(["POST /pve HTTP/1.1", "host: x", f"content-length: {len(body)}", *lines])
    assert raw(service, head.encode() + b"\r\n\r\n" + body).startswith(b"HTTP/1.1 401")


def raw(service: Service, data: bytes) -> bytes:
    """Send bytes unchanged, and return everything that comes until the end."""
    with socket.create_connection(("127.0.0.1", service.port), 30) as client:
        client.sendall(data)
        client.settimeout(30)
        return client.recv(65536)
