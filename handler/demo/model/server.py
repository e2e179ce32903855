"""A stand-in for the Messages API, on loopback: everything of it is like the original but the words.

It keeps nothing between requests but a list of them. What it says is a script that rides in the conversation: see
`answers.py`. Beside what a step says there, it may have `pace`, seconds between deltas; `wait`, a name that somebody
has to `release` before the text goes on; or `fail`, which FAILURES lists, for the first `times` tries.
"""

import json
import socket
import struct
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .answers import Default, Json, block_start, blocks, deltas, fault_of, message_of, step, stop_reason, texts

FAILURES: Mapping[object, tuple[int, str, str]] = {
    400: (400, "invalid_request_error", "messages: at least one message is required"),
    401: (401, "authentication_error", "invalid x-api-key"),
    403: (403, "permission_error", "Your account does not have permission"),
    404: (404, "not_found_error", "model: no-such-model"),
    429: (429, "rate_limit_error", "This request would exceed your account's rate limit"),
    500: (500, "api_error", "Internal server error"),
    529: (529, "overloaded_error", "Overloaded"),
}
# and "mute" (never a byte), "html" (a captive portal), and in the middle of the stream "reset", "silence", "cut"


@dataclass
class Asked:
    """One request, for tests to look at."""

    headers: Mapping[str, str]
    body: Json
    at: float = field(default_factory=time.monotonic)

    @property
    def place(self) -> tuple[str, int]:
        """Where in which conversation: the same for each try, as the retry header of this CLI always says 0."""
        return self.headers.get("x-claude-code-session-id", ""), len(self.body.get("messages", ()))

    @property
    def said(self) -> str:
        """Every text that the model was shown."""
        return "\n".join(text for message in self.body["messages"] for text, _ in texts(message))


class Model:
    """A listening stand-in; `url` is what ANTHROPIC_BASE_URL takes, `asked` what came."""

    def __init__(self, default: Default = lambda words, number, shown: {"text": "done"}) -> None:
        self.default = default
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        self._gates: dict[str, threading.Event] = {}
        self._changed = threading.Condition()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.model = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def gate(self, name: str) -> threading.Event:
        with self._changed:
            return self._gates.setdefault(name, threading.Event())

    def release(self, name: str) -> None:
        """Let the answer that waits for `name`, now or later, go on."""
        self.gate(name).set()

    def note(self, asked: Asked) -> int:
        """Keep a request; return how often the same was asked before."""
        with self._changed:
            before = sum(earlier.place == asked.place for earlier in self.asked)
            self.asked.append(asked)
            self._changed.notify_all()
        return before

    def wait_asked(self, count: int, seconds: float = 20) -> None:
        """Return once `count` requests have come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.asked) >= count, seconds), f"{len(self.asked)} of {count}"

    def close(self) -> None:
        """Stop listening and let go of whoever waits for a word."""
        self.closing.set()
        for name in list(self._gates):
            self.release(name)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    model: Model

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that leaves in the middle is an ordinary one."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer(200, b"", "application/json")

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path.partition("?")[0] != "/v1/messages":
            self._refuse(404, "not_found_error", "Not found")
            return
        asked = Asked({name.lower(): value for name, value in self.headers.items()}, json.loads(raw))
        before = self.server.model.note(asked)
        if not ("x-api-key" in asked.headers or "authorization" in asked.headers):
            self._refuse(401, "authentication_error", "x-api-key header is required")
        elif fault := fault_of(asked.body):
            self._refuse(400, "invalid_request_error", fault)
        else:
            what = step(asked.body["messages"], self.server.model.default)
            self._reply(asked, what, what.get("fail") if before < what.get("times", before + 1) else None)

    def _reply(self, asked: Asked, what: Json, failure: object) -> None:
        if failure in FAILURES:
            headers = {"retry-after": str(what["retry_after"])} if "retry_after" in what else {}
            self._refuse(*FAILURES[failure], headers)
        elif failure == "mute":
            self.server.model.closing.wait()
        elif failure == "html":
            self._answer(200, b"<!doctype html><title>Sign in to the guest network</title>", "text/html")
        elif asked.body.get("stream"):
            self._stream(asked.body, what, failure)
        elif failure is not None:
            self._break_off(failure)
        else:
            content = blocks(what)
            message = message_of(asked.body) | {"content": content, "stop_reason": stop_reason(content)}
            self._answer(200, json.dumps(message).encode(), "application/json")

    def _refuse(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": f"req_{uuid.uuid4().hex}"}
        self._answer(status, json.dumps(body).encode(), "application/json", headers)

    def _answer(self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    # --- the stream ---

    def _stream(self, asked: Json, what: Json, failure: object) -> None:
        self.send_response(200)
        for name, value in {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()
        content = blocks(what)
        self._event({"type": "message_start", "message": message_of(asked)})
        self._event({"type": "ping"})
        for index, block in enumerate(content):
            self._event({"type": "content_block_start", "index": index, "content_block": block_start(block)})
            for number, delta in enumerate(deltas(block)):
                if number == 1:
                    self._between(what, failure)
                self._event({"type": "content_block_delta", "index": index, "delta": delta})
                if "pace" in what:
                    time.sleep(what["pace"])
            self._event({"type": "content_block_stop", "index": index})
        usage = {"output_tokens": sum(len(json.dumps(block)) for block in content) // 4 + 1}
        delta = {"stop_reason": stop_reason(content), "stop_sequence": None}
        self._event({"type": "message_delta", "delta": delta, "usage": usage})
        self._event({"type": "message_stop"})
        self._chunk(b"")

    def _between(self, what: Json, failure: object) -> None:
        """Do what the step wants between the first delta of a block and the second."""
        if "wait" in what:
            self.server.model.gate(what["wait"]).wait()
        if failure is not None:
            self._break_off(failure)

    def _break_off(self, failure: object) -> None:
        if failure == "silence":
            self.server.model.closing.wait()
        time.sleep(0.1)  # what the other side has not taken by then it drops, and there would be nothing to retract
        if failure == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionAbortedError(failure)  # the server closes the connection

    def _event(self, event: Json) -> None:
        self._chunk(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
