"""Limits on a peer without a key, and what a stopping handler answers."""

import contextlib
import http.client
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.ports import reserve_port
from ..support.service import SSH_KEY, Service, with_constants
from ..support.signals import signal_process
from ..support.stages import until

pytestmark = pytest.mark.slow

GET = b"GET /health HTTP/1.1\r\nhost: x\r\n"
CHUNKED = "POST /pve HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"


HASTY = with_constants(
    *(f"web.{each}_SECONDS = 2.0" for each in ("connection.HEADER", "connection.UNREAD", "gate.BODY")),
    "web.connection.BODY_SECONDS = 4.0",  # until the connection ends although the answer needed no body
)
# After SIGTERM, it waits for a slow client's request.
PATIENT = with_constants("server.server.ANSWER_SECONDS = 60.0", "server.server.IDLE_SECONDS = 60.0")


@pytest.fixture(scope="module")
def hasty(directory: Path) -> Iterator[Service]:
    """A handler without a host, whose deadlines are some seconds."""
    service = Service(directory, port=reserve_port(), key=SSH_KEY, host_key="any", program=HASTY)
    yield service
    service.stop()


@contextlib.contextmanager
def connected(service: Service, window: int = 0) -> Iterator[socket.socket]:
    with socket.socket() as client:
        if window:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        client.settimeout(30)
        client.connect(("127.0.0.1", service.port))
        yield client


def answered(client: socket.socket, request: bytes) -> None:
    """Send a request and read its whole answer."""
    client.sendall(request)
    response = http.client.HTTPResponse(client)
    response.begin()
    assert (response.status, response.read()[:1]) == (200, b"{")


# --- deadlines ---

HALVES = {
    b"": (b" 408 ", b"too-slow"),
    b"POST /pve HTTP/1.1\r\nhost: x\r\nx-slow: ": (b" 408 ", b"too-slow"),
    b"POST /pve HTTP/1.1\r\ncontent-length: 9\r\n\r\n{": (b" 408 ", b"too-slow"),
    b"POST /pve HTTP/1.1\r\ncontent-length: 20000\r\n\r\n{": (b" 413 ", b"too-large"),
}


@pytest.mark.all
def test_half_a_request_is_408_after_a_deadline(hasty: Service) -> None:
    """If nothing, half the headers or half the body has come, the answer is 408, and the connection closes.

    A body that is too long anyway is answered with 413, because clients repeat a request after a 408. After an answer
    that needed no body, a byte of the body stops uvicorn's clock. The connection still ends.
    """
    with contextlib.ExitStack() as stack:
        unread, clients = stack.enter_context(connected(hasty)), list[socket.socket]()
        answered(unread, GET + b"content-length: 9\r\n\r\n")
        unread.sendall(b"x")
        for half in HALVES:  # each is sent at once, because the deadline begins with the connection
            clients.append(stack.enter_context(connected(hasty)))
            clients[-1].sendall(half)
        for client, (status, code) in zip(clients, HALVES.values(), strict=False):
            with client.makefile("rb") as stream:
                answer = stream.read()
            assert (status in answer[:20], code in answer) == (True, True)
        assert unread.recv(1) == b""


def test_a_client_that_reads_nothing_loses_its_connection(hasty: Service) -> None:
    """It sends many requests and reads no answer. The kernel ends the connection, and its memory is free again."""
    ask = b"GET /chat/turns.js HTTP/1.1\r\nhost: x\r\n\r\n"
    with connected(hasty, window=4096) as client, pytest.raises(ConnectionError):
        client.sendall(ask * 1_000_000)


# --- the end ---


def listens(port: int) -> bool:
    """Tell whether a socket listens on a port, without a connection to it (proc_pid_net(5); 0A is TCP_LISTEN)."""
    fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any(each[1].endswith(f":{port:04X}") and each[3] == "0A" for each in fields)


def test_a_handler_that_stops_answers_each_connection(directory: Path) -> None:
    """One connection has a running request. The other has none yet, but a proxy may have opened it for a verb."""
    service = Service(directory, port=reserve_port(), key=SSH_KEY, host_key="any", program=PATIENT)
    body = b'{"verb":"status"}'
    signed = "".join(f"{name}: {value}\r\n" for name, value in service.signed(body).items()).encode()
    with connected(service) as idle, connected(service) as busy:
        busy.sendall(b"POST /pve HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%s\r\n" % (len(body), signed) + body[:-1])
        service.health()  # by now both are accepted, and the handler reads the body
        signal_process(service.process.pid, signal.SIGTERM)
        until(lambda: not listens(service.port), "the end of its listening")
        idle.sendall(GET + b"\r\n")
        assert b"\r\nconnection: close\r\n" in idle.recv(65536)
        busy.sendall(body[-1:])
        assert busy.recv(65536).startswith(b"HTTP/1.1 503 ")  # without a host
    assert service.process.wait(60) == 0


# --- trailers ---


def test_a_trailer_closes_the_connection(hasty: Service) -> None:
    """A signature after the body, which proxies ignore, is ignored here too, and the connection ends."""
    body = b'{"verb":"status"}'
    signed = "".join(f"{name}: {value}\r\n" for name, value in hasty.signed(body).items())
    chunks = b"%x\r\n%s\r\n0\r\n" % (len(body), body)
    with connected(hasty) as client:
        client.sendall(f"{CHUNKED}{signed}\r\n".encode() + chunks + b"\r\n")
        assert b" 503 " in client.recv(65536)  # signed, and without a host
    with connected(hasty) as client:
        client.sendall(f"{CHUNKED}\r\n".encode() + chunks + f"{signed}\r\n".encode())
        assert client.recv(65536) == b""


def test_what_is_no_request_is_read_to_its_end(hasty: Service) -> None:
    """If a connection was closed with unread bytes, the system would reset it, and a proxy would drop the answer."""
    with connected(hasty) as client:
        client.sendall(b"PRI * HTTP/1.1\r\n\r\n" + b"x" * 1_000_000)
        received = b""
        while piece := client.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.endswith(b"}\n")
