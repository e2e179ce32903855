"""A peer that sends a test's answers, for the client's reaction to answers that no real handler sends on demand."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

JSON = "content-type: application/json"
LINES = "content-type: application/x-ndjson"


@contextmanager
def peer(*answers: str) -> Iterator[tuple[str, list[bytes]]]:
    """A TCP peer that reads a request and writes one of the answers, per connection; yields its URL and the bodies."""
    bodies: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in answers:
                connection, _ = server.accept()
                with connection, connection.makefile("rb") as request:
                    headers = list(iter(request.readline, b"\r\n"))
                    [size] = [int(line[15:]) for line in headers if line.lower().startswith(b"content-length:")]
                    bodies.append(request.read(size))
                    connection.sendall(answer.encode())

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}", bodies
        finally:
            thread.join(10)


def answer(status: str, kind: str, *lines: dict[str, object]) -> str:
    body = "".join(f"{json.dumps(line)}\n" for line in lines)
    return f"HTTP/1.1 {status}\r\n{kind}\r\nconnection: close\r\n\r\n{body}"
