"""Servers on loopback that answer as a test wants, for answers that no real server gives on demand."""

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

JSON = "content-type: application/json"
LINES = "content-type: application/x-ndjson"


@contextmanager
def playing(play: Callable[[socket.socket], object]) -> Iterator[int]:
    """Serve a port, on which `play` has each connection in its own thread; yield the port."""
    with ExitStack() as opened, socket.create_server(("127.0.0.1", 0)) as listener:

        def run(connection: socket.socket) -> None:
            with connection, suppress(OSError):  # the other end may leave
                play(connection)

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    opened.enter_context(connection)  # a socket that is collected later is a fault of another test
                    threading.Thread(target=run, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def read_request(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return a request's line and body. Both are empty for a connection that was opened early and never used."""
    with connection.makefile("rb") as stream:
        line = stream.readline()
        size = http.client.parse_headers(stream)["content-length"] if line else None
        return line, stream.read(int(size or 0))


class Answering(NamedTuple):
    """A server's address, and the lines of the requests that it got."""

    url: str
    lines: list[bytes]


@contextmanager
def answering(answer: bytes) -> Iterator[Answering]:
    """Answer each request with these bytes, and close the connection."""
    lines: list[bytes] = []

    def play(connection: socket.socket) -> None:
        line, _ = read_request(connection)
        if line:
            lines.append(line)
            connection.sendall(answer)

    with playing(play) as port:
        yield Answering(f"http://127.0.0.1:{port}", lines)


@contextmanager
def peer(*answers: str) -> Iterator[tuple[str, list[bytes]]]:
    """Answer one request after the other with these; yield the server's URL and the bodies."""
    left, bodies = list(answers), list[bytes]()

    def play(connection: socket.socket) -> None:
        bodies.append(read_request(connection)[1])
        connection.sendall(left.pop(0).encode())

    with playing(play) as port:
        yield f"http://127.0.0.1:{port}", bodies


def answer(status: str, kind: str, *lines: dict[str, object]) -> str:
    body = "".join(f"{json.dumps(line)}\n" for line in lines)
    return f"HTTP/1.1 {status}\r\n{kind}\r\nconnection: close\r\n\r\n{body}"
