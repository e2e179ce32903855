"""Floods of strangers: pipelined requests, incomplete requests, bodies, and requests for another protocol."""

import contextlib
import itertools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from breakglass.client import new_id

from ..bench.client import resident_kib
from ..support.ports import reserve_port
from ..support.rows import each_row
from ..support.service import SSH_KEY, Service, with_constants

pytestmark = pytest.mark.slow

GET = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
STATUS = b'{"verb":"status","vm":"devvm"}'
BODIES = 16 * 1024 * 1024  # bytes that all strangers' connections together may hold here
MOST = 10 * 1024 * 1024  # bytes of bodies that are all kept at once
LOOKS_SIGNED = {"webhook-id": "msg_12345678", "webhook-timestamp": "1764000000"}
LOOKS_SIGNED["webhook-signature"] = f"v1,{'A' * 43}="
DESCRIPTORS = 1000  # of the handler here


SMALL = (
    "-c",
    "import resource, sys, breakglass.web.strangers; from breakglass.cli.main import main; "
    f"resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS // 2}, {DESCRIPTORS})); "
    f"breakglass.web.strangers.MOST_BYTES = {BODIES}; sys.exit(main())",
)


def head(path: str, length: int, **headers: str) -> bytes:
    """Return the head of a request."""
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {length}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


@pytest.fixture(scope="module")
def small(directory: Path) -> Iterator[Service]:
    """A handler with few descriptors, and little memory for strangers.

    The host of `devvm` refuses connections, and that of `silentvm` only accepts them.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_host = f'[hosts.silent]\nssh = "breakglass@127.0.0.1:{silent.getsockname()[1]}"\nhost_key = "any"\n'
        silent_host += f"key = '''{SSH_KEY}'''\n[vms.silentvm]\nhosts = ['silent']\nvmid = 103\n"
        service = Service(directory, port=reserve_port(), key=SSH_KEY, host_key="any", program=SMALL, extra=silent_host)
        yield service
        service.stop()


@contextlib.contextmanager
def connected(service: Service) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as client:
        yield client


def read_status(answers: BinaryIO) -> int:
    """Read one whole answer; return its status."""
    status, length = int(answers.readline().split()[1]), 0
    while (line := answers.readline().lower()) != b"\r\n":
        assert line, "the connection has ended"
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    assert len(answers.read(length)) == length
    return status


def is_closed(client: socket.socket) -> bool:
    """Tell whether the other side has closed a connection, or closes it within its deadline for headers."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


# --- pipelining ---


def test_a_few_requests_may_wait(small: Service) -> None:
    """Five at once are answered in turn, and the connection continues. If a hundred come at once, it ends."""
    with connected(small) as client, client.makefile("rb") as answers:
        for _ in range(2):
            client.sendall(GET * 5)
            assert [read_status(answers) for _ in range(5)] == [200] * 5
    with connected(small) as client:
        client.sendall(GET * 100)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(65536):
                received += piece
    assert received.count(b"HTTP/1.1 200") < 6


# --- another protocol ---

WISHES = (
    {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAAQCAAAAAAIAAAAA"},
    {"Connection": "keep-alive, Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
)


@each_row(("wish", "parts"), itertools.product(WISHES, (1, 2, 1000)))
def test_a_wish_for_another_protocol_is_ignored(small: Service, wish: dict[str, str], parts: int) -> None:
    """The signed body is used, however it is framed, and the connection continues."""
    request = head("/pve", len(STATUS), **small.signed(STATUS), **wish) + STATUS
    step = -(-len(request) // parts)
    with connected(small) as client, client.makefile("rb") as answers:
        for _ in range(2):
            for start in range(0, len(request), step):
                client.sendall(request[start : start + step])
            assert read_status(answers) == 503
            client.sendall(GET)
            assert read_status(answers) == 200


# --- descriptors and memory ---


@pytest.fixture
def crowd(small: Service) -> Iterator[contextlib.ExitStack]:
    """Connections that a test opens. They are closed after the test."""
    with contextlib.ExitStack() as stack:
        yield stack


def test_half_requests_leave_a_descriptor_for_the_operator(small: Service, crowd: contextlib.ExitStack) -> None:
    """If there are too many, the oldest are closed. Signed requests are answered, and always find a descriptor."""
    for n in range(DESCRIPTORS + 200):
        crowd.enter_context(connected(small)).sendall(GET[:-2])
        if n % 100 == 99:
            assert small.pve("status", vm="devvm").status == 503
    last = new_id()
    small.pve("status", vm="devvm", msg_id=last)
    assert "out-of-descriptors" not in small.logged(last)


def memory_of_bodies(service: Service, crowd: contextlib.ExitStack, **headers: str) -> int:
    """Return by how many bytes the handler grows while it reads bodies that together have `MOST`."""
    before = resident_kib(service.process.pid)
    part = b"x" * 900_000
    for _ in range(MOST // len(part)):
        crowd.enter_context(connected(service)).sendall(head("/alert/alertmanager", 1_000_000, **headers) + part)
        assert service.pve("status", vm="devvm").status == 503  # by now the handler has read the part
    return (resident_kib(service.process.pid) - before) * 1024


NO_SIGNATURES: list[dict[str, str]] = [
    {},
    {"webhook-id": "msg_12345678", "webhook-signature": LOOKS_SIGNED["webhook-signature"]},
    {**LOOKS_SIGNED, "webhook-timestamp": "yesterday"},
    {**LOOKS_SIGNED, "webhook-signature": "v1,AAAA"},
    {**LOOKS_SIGNED, "x-grafana-alerting-signature": "0" * 64},
]


@pytest.mark.all
def test_a_body_that_can_not_be_signed_is_not_kept(directory: Path, crowd: contextlib.ExitStack) -> None:
    """If the headers can't be a signature, the body is not kept. If they can, the whole body is in memory."""
    roomy = with_constants(f"web.strangers.MOST_BYTES = {8 * MOST}")  # closes no connection of this test
    service = Service(directory, port=reserve_port(), key=SSH_KEY, host_key="any", program=roomy)
    try:
        service.send("POST", "/alert/generic", b"x" * 900_000)  # the first requests take some memory for ever
        service.together([{"verb": "status", "vm": "devvm"}] * 20)
        for headers in NO_SIGNATURES:
            assert memory_of_bodies(service, crowd, **headers) < MOST / 4
        assert memory_of_bodies(service, crowd, **LOOKS_SIGNED) > MOST / 2
    finally:
        service.stop()


@each_row("headers", [*NO_SIGNATURES, LOOKS_SIGNED])
def test_the_refusal_comes_after_the_body(small: Service, headers: dict[str, str]) -> None:
    """Whether or not the body is kept, nothing is sent before its last byte, and then the same bytes."""
    with connected(small) as client, client.makefile("rb") as answers:
        client.sendall(head("/alert/generic", 100_000, **headers) + b"x" * 99_999)
        assert small.pve("status", vm="devvm").status == 503  # by now the handler has read them
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.setblocking(True)
        client.sendall(b"x")
        assert read_status(answers) == 401


def test_bodies_of_strangers_share_their_memory(small: Service, crowd: contextlib.ExitStack) -> None:
    """If incomplete bodies are too long together, the oldest are dropped. A signed request that waits is kept."""
    waiting = crowd.enter_context(connected(small))
    silent = STATUS.replace(b"devvm", b"silentvm")
    waiting.sendall(head("/pve", len(silent), **small.signed(silent)) + silent)
    part = b"x" * 900_000
    clients = []
    for _ in range(BODIES // len(part) + 3):  # in turn, and few, because a silent connection ends after ten seconds
        client = crowd.enter_context(connected(small))
        clients.append(client)
        client.sendall(head("/alert/alertmanager", 1_000_000, **LOOKS_SIGNED) + part)
        assert small.pve("status", vm="devvm").status == 503  # by now the handler has read the part
    assert is_closed(clients[0])
    clients[-1].sendall(b"x" * 100_000)
    with clients[-1].makefile("rb") as answers:
        assert read_status(answers) == 401
    waiting.setblocking(False)
    with contextlib.suppress(BlockingIOError):  # it still waits for its host, or has the answer that the host is silent
        assert waiting.recv(12) == b"HTTP/1.1 503"
