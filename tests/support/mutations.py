"""Requests with a fault somewhere: in a byte, a header, the framing, the signature, the path or the body.

The same seed makes the same requests, except for their timestamps and signatures, because a signature must be fresh.
"""

import json
import random
from collections.abc import Callable, Iterator

from breakglass.auth.signing import sign

POWER = ("start", "stop", "reset", "cycle")
GOOD = {"vm": "devvm", "reason": "it hangs", "if_state": "running", "if_last": "none", "job": "msg_12345678"}
FIELDS = (*GOOD, "verb", "anyway", "to", "prompt", "after", "alerts", "challenge")
SOURCES = ("alertmanager", "grafana", "kuma", "gatus", "healthchecks", "pve", "generic")
PATHS = (
    *("/pve/", "//pve", "/PVE", "/%70ve", "/pve%00", "/pve?x=1", "/..%2fpve", "/\xff", "*"),
    *("/alert/none", "/health", "/app.js"),
)
METHODS = (b"GET", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"post", b"CONNECT", b"PRI")
TEXTS = ("", "devvm", "none", "storage-hung", "x" * 300, "ä☎\u202e", "\ud800", "\x00\n\r", "1795500000." + "A" * 43)
HEADERS = (
    *(b"Expect: 100-continue", b"Connection: close", b"Connection: Upgrade\r\nUpgrade: h2c", b"\xff\xfe: \x80"),
    *(b"Authorization: Bearer bgt_" + b"x" * 43, b"Authorization: Basic eDp5", b"X-Forwarded-For: 1, 2, 203.0.113.9"),
    *(b"webhook-id: msg_another_one", b"webhook-signature: v1," + b"A" * 43 + b"=", b"Range: bytes=0-1"),
    *(b"X-Grafana-Alerting-Signature: " + b"0" * 64, b"X-Grafana-Alerting-Timestamp: 1795500000"),
    *(b"Accept: application/x-ndjson", b"Cookie: " + b"x" * 9000, b"X: " + b"y" * 33000),
)


class Mutations:
    """Makes requests. `key` belongs to a caller who may not change power, and `now` is the time for signatures."""

    def __init__(self, seed: int, key: bytes, now: Callable[[], int]) -> None:
        self._random = random.Random(seed)
        self._key, self._now = key, now

    def requests(self, count: int) -> Iterator[bytes]:
        """Yield this many requests."""
        for _ in range(count):
            yield self._request()

    def _often(self, percent: float) -> bool:
        return self._random.random() * 100 < percent

    def _request(self) -> bytes:
        choice = self._random
        path = "/pve" if self._often(70) else choice.choice(("/chat", *(f"/alert/{source}" for source in SOURCES)))
        path = choice.choice(PATHS) if self._often(8) else path
        body = self._bytes_changed(self._body()) if self._often(15) else self._body()
        lines = [b"host: x", *self._signature(body)]
        if self._often(20):
            lines += choice.sample(HEADERS, choice.randint(1, 3))
        if self._often(10):
            number = choice.randrange(len(lines))
            lines[number] = self._bytes_changed(lines[number])
        if self._often(5):
            lines.pop(choice.randrange(len(lines)))
        choice.shuffle(lines)
        framing, body = self._framed(body)
        method = choice.choice(METHODS) if self._often(5) else b"POST"
        version = choice.choice((b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 ", b"")) if self._often(2) else b"HTTP/1.1"
        head = b"\r\n".join((b"%s %s %s" % (method, path.encode("latin-1"), version), *lines, *framing, b"", b""))
        request = head + body
        return self._bytes_changed(request) if self._often(10) else request

    def _body(self) -> bytes:
        if self._often(4):
            return self._random.choice(
                (b"", b"[" * 9000, b"\xff" * 40, b'{"verb":"stop"}' * 2, b'{"verb":NaN}', b"1" * 20000)
            )
        fields: dict[str, object] = {"verb": self._verb()}
        for name in self._random.sample(
            FIELDS if self._often(20) else tuple(GOOD), k=self._random.choice((0, 0, 1, 1, 2, 4))
        ):
            fields[name] = self._value() if self._often(15) or name not in GOOD else GOOD[name]
        text = json.dumps(fields, ensure_ascii=self._often(50))
        if self._often(3):
            text = text.replace("{", '{"verb":"reset",', 1)  # twice
        return text.encode("utf-8", "surrogatepass")

    def _verb(self) -> object:
        if self._often(80):
            return self._random.choice(POWER)
        return self._random.choice(("Reset", "reset ", "ping", "session", "", 1, None, ["reset"], {"verb": "reset"}))

    def _value(self) -> object:
        if self._often(70):
            return self._random.choice(TEXTS)
        return self._random.choice(
            (1, -1e308, True, None, [], {}, [[[{}]]], [{"labels": {"a": "b"}, "status": "firing"}])
        )

    def _signature(self, body: bytes) -> list[bytes]:
        """Return signature headers, which are good in four of five cases."""
        msg_id = f"msg_{self._random.getrandbits(96):024x}"
        signed, at = (body + b" " if self._often(8) else body), self._now()
        if self._often(5):
            at += self._random.choice((-301, 301, -(10**9)))
        if self._often(4):
            msg_id = self._random.choice(("short", "a.b.c.d.e", "x" * 65, "ä" * 9, "job_" + msg_id))
        signature = sign(self._key if self._often(95) else b"x" * 32, msg_id, at, signed)
        if self._often(3):
            signature = " ".join([signature] * self._random.choice((2, 5, 6, 400)))
        values = {"webhook-id": msg_id, "webhook-timestamp": str(at), "webhook-signature": signature}
        return [f"{name}: {value}".encode() for name, value in values.items()]

    def _framed(self, body: bytes) -> tuple[list[bytes], bytes]:
        """Return the headers with the body's length, and the body as it is sent."""
        length = b"content-length: %d" % len(body)
        if self._often(85):
            return [length], body
        chunks = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
        half = len(body) // 2
        two = b"%x;a=b\r\n%s\r\n%X\r\n%s\r\n" % (half, body[:half], len(body) - half, body[half:]) if half else chunks
        chunked = b"transfer-encoding: chunked"
        ways: list[tuple[list[bytes], bytes]] = [([chunked], each + b"0\r\n\r\n") for each in (chunks, two)]
        ways += [([chunked], chunks + end) for end in (b"0\r\nx: y\r\n\r\n", b"zz\r\n\r\n")]
        ways += [([chunked, length], chunks + b"0\r\n\r\n"), ([length, length], body), ([], body)]
        ways += [([b"content-length: %d" % max(0, len(body) + more)], body) for more in (-5, 5)]
        others = (b"content-length: -1", b"content-length: " + b"9" * 23, b"transfer-encoding: identity")
        return self._random.choice([*ways, *(([other], body) for other in others)])

    def _bytes_changed(self, data: bytes) -> bytes:
        """Return data in which some bytes are changed, missing, added or doubled."""
        changed, choice = bytearray(data), self._random
        for _ in range(choice.choice((1, 1, 2, 5))):
            at = choice.randrange(len(changed) + 1)
            match choice.randrange(4):
                case 0:
                    changed[at : at + 1] = bytes([choice.randrange(256)])
                case 1:
                    del changed[at : at + choice.choice((1, 1, 4, 40))]
                case 2:
                    changed[at:at] = choice.choice(
                        (b"\x00", b"\r\n", b"\n", b":", b" ", b"\xff", b"\r\n\r\n", b"%", b'"')
                    )
                case 3:
                    changed[at:at] = changed[at : at + choice.choice((1, 10, 100))]
        return bytes(changed)
