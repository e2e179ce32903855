"""Receivers of messages on loopback: one that keeps requests by ntfy's rules, and ones that misbehave."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .peer import playing
from .stages import until


class Inbox(ThreadingHTTPServer):
    """Keeps each request; answers with `statuses` one after the other, then 200."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.cleared: set[str] = set()  # sequence ids whose newest message is on no screen
        super().__init__(("127.0.0.1", 0), Taking)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in list(self.requests)]

    def lines(self) -> dict[str, dict[str, Any]]:
        """Return what a phone shows by ntfy 2.16's rules: the newest message of each sequence id (or of none)."""
        return {body.get("sequence_id", str(number)): body for number, body in enumerate(self.bodies())}

    def wait(self, count: int) -> list[dict[str, Any]]:
        """Return the bodies once there are so many."""
        until(lambda: len(self.requests) >= count, f"{count} messages, of which {len(self.requests)} came", 120)
        return self.bodies()


class Taking(BaseHTTPRequestHandler):
    """Takes one request."""

    server: Inbox

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.server.requests.append((self.path, headers, body))
            self.server.cleared.discard(json.loads(body).get("sequence_id"))
        self.send_response(status)
        self.end_headers()

    def do_PUT(self) -> None:
        """Clear a line, as ntfy does since 2.16."""
        _, topic, key, clear = self.path.split("/")
        assert (topic, clear) == ("night", "clear")
        self.server.cleared.add(key)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def receiving() -> Iterator[Inbox]:
    """Run a receiver."""
    receiver = Inbox()
    try:
        yield receiver
    finally:
        receiver.shutdown()
        receiver.server_close()


@contextmanager
def misbehaving(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """Run a receiver that answers each connection by itself; yield its URL."""
    with playing(answer) as port:
        yield f"http://127.0.0.1:{port}/"


def trickle(taken: socket.socket) -> None:
    """Answer one byte at a time, without an end of the first line."""
    while True:
        taken.sendall(b"H")
        time.sleep(0.05)


def flood(taken: socket.socket) -> None:
    """Answer with a good status and a body without an end."""
    taken.recv(65536)
    taken.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        taken.sendall(b"x" * 65536)


def replying(head: bytes) -> Callable[[socket.socket], None]:
    """Return what answers a request with this head."""

    def answer(taken: socket.socket) -> None:
        taken.recv(65536)
        taken.sendall(head)

    return answer
