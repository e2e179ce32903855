"""A stand-in for the Messages API, on loopback. It behaves like the real API, except for the text of its answers.

It keeps no state between requests. `answers.py` creates the answers. A step's `pace` is the number of seconds between
its deltas. Tests subclass `Model` and `Handler`, so that their model plays scripts, waits and fails.
"""

import json
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .answers import Default, Json, block_start, blocks, deltas, fault_of, message_of, next_step, stop_reason


@dataclass(frozen=True)
class Request:
    """One request for a message."""

    headers: Mapping[str, str]
    body: Json


class Model:
    """A listening stand-in. `url` is the value for ANTHROPIC_BASE_URL."""

    def __init__(self, default: Default, handler: "type[Handler] | None" = None) -> None:
        self.default = default
        self._server = _Server(("127.0.0.1", 0), handler or Handler)
        self._server.model = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def next_step(self, messages: list[Json]) -> Json:
        """Return the next answer in a conversation."""
        return next_step(messages, self.default)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    model: Model

    def handle_error(self, request: object, client_address: object) -> None:
        """Report nothing, because a client may disconnect at any time."""


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        """Answer the HEAD request that claude sends first."""
        self.send_body(200, b"", "application/json")

    def do_GET(self) -> None:
        """List the models if the request has a credential. Every other path is not found."""
        if self.path.partition("?")[0] != "/v1/models":
            self.refuse(404, "not_found_error", "Not found")
        elif not ("x-api-key" in self.headers or "authorization" in self.headers):
            self.refuse(401, "authentication_error", "x-api-key header is required")
        else:
            self.list_models()

    def list_models(self) -> None:
        """Send the list of models."""
        models = [{"type": "model", "id": "scripted", "display_name": "scripted"}]
        body = {"data": models, "has_more": False, "first_id": "scripted", "last_id": "scripted"}
        self.send_body(200, json.dumps(body).encode(), "application/json")

    def do_POST(self) -> None:
        """Answer a request for a message; every other path is not found."""
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path.partition("?")[0] != "/v1/messages":
            self.refuse(404, "not_found_error", "Not found")
            return
        self.answer(Request({name.lower(): value for name, value in self.headers.items()}, json.loads(raw)))

    def answer(self, request: Request) -> None:
        """Answer a request, or refuse it as the real API does."""
        if not ("x-api-key" in request.headers or "authorization" in request.headers):
            self.refuse(401, "authentication_error", "x-api-key header is required")
        elif fault := fault_of(request.body):
            self.refuse(400, "invalid_request_error", fault)
        else:
            self.reply(request, self.server.model.next_step(request.body["messages"]))

    def reply(self, request: Request, step: Json) -> None:
        """Send a step as a message, in pieces if the request asks for a stream."""
        if request.body.get("stream"):
            self._stream(request.body, step)
            return
        content = blocks(step)
        message = message_of(request.body) | {"content": content, "stop_reason": stop_reason(content)}
        self.send_body(200, json.dumps(message).encode(), "application/json")

    def refuse(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        """Send an error object."""
        body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": f"req_{uuid.uuid4().hex}"}
        self.send_body(status, json.dumps(body).encode(), "application/json", headers)

    def send_body(self, status: int, body: bytes, kind: str, headers: Mapping[str, str] | None = None) -> None:
        """Send a whole answer."""
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    # --- the stream ---

    def _stream(self, body: Json, step: Json) -> None:
        self.send_response(200)
        for name, value in {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}.items():
            self.send_header(name, value)
        self.end_headers()
        content = blocks(step)
        self.send_event({"type": "message_start", "message": message_of(body)})
        self.send_event({"type": "ping"})
        for index, block in enumerate(content):
            self._send_block(index, block, step.get("pace", 0))
        usage = {"output_tokens": sum(len(json.dumps(block)) for block in content) // 4 + 1}
        delta = {"stop_reason": stop_reason(content), "stop_sequence": None}
        self.send_event({"type": "message_delta", "delta": delta, "usage": usage})
        self.send_event({"type": "message_stop"})
        self._send_chunk(b"")

    def _send_block(self, index: int, block: Json, pace: float) -> None:
        self.send_event({"type": "content_block_start", "index": index, "content_block": block_start(block)})
        for delta in deltas(block):
            self.send_event({"type": "content_block_delta", "index": index, "delta": delta})
            time.sleep(pace)
        self.send_event({"type": "content_block_stop", "index": index})

    def send_event(self, event: Json) -> None:
        """Send one event of a stream."""
        self._send_chunk(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())

    def _send_chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
