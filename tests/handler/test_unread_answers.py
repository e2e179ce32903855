"""A client that asks for an old picture many times and reads no answer takes no memory and no time."""

import base64
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from breakglass.client import new_id
from breakglass.web.edge import MOST_UNREAD_BYTES

from ..bench.client import resident_kib
from ..support.scripted import Scripted, result
from ..support.service import Service
from ..support.stages import until

pytestmark = pytest.mark.real("sshd")

READERS = 150
PICTURE = base64.b64encode(os.urandom(2 * 1024 * 1024)).decode()  # the largest picture that a host keeps
MOST_WHOLE = MOST_UNREAD_BYTES // len(PICTURE) + 5  # the kernel holds a part of each answer
MOST_MIB = 150  # by which the handler grows; without limits, it would be 400
KINDS = {"json": "", "gzip": "accept-encoding: gzip\r\n", "lines": "accept: application/x-ndjson\r\n"}


def ask(service: Service, job: str, more: str) -> socket.socket:
    """Send a request for the picture as the caller that may only read, and return the connection."""
    body = json.dumps({"verb": "history", "job": job}).encode()
    headers = "".join(f"{name}: {value}\r\n" for name, value in service.signed(body, "viewer").items())
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # the kernel buffers little for the client
    connection.settimeout(60)
    connection.connect(("127.0.0.1", service.port))
    head = f"POST /pve HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\nconnection: close\r\n{more}{headers}\r\n"
    connection.sendall(head.encode() + body)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """Return what comes until the connection ends, or is reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    received = bytearray()
    try:
        while piece := connection.recv(1 << 20):
            received += piece
    except ConnectionResetError:
        pass
    return bytes(received)


@pytest.mark.all
@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_reads_nothing_delays_no_operator(kind: str, script: Scripted, scripted_service: Service) -> None:
    """All answers come at once, but the operator's verb is done. The newest connections stay, others are closed."""
    service = scripted_service
    job = [{"wait": "go"}, result(whole_job={"id": "x", "screen_png": PICTURE})]
    script.say([("job", job), ("ping", [result(vms="102")]), ("", [result(jobs=[])])])
    name, before, at_first = new_id(), service.log().count('"history"'), resident_kib(service.process.pid)
    with ExitStack() as ends:
        readers = [ends.enter_context(ask(service, name, KINDS[kind])) for _ in range(READERS)]
        until(lambda: script.asked("job"), "the question to the host")
        assert service.pve("reset").json["outcome"] == "done"
        script.let_go("go")
        until(lambda: service.log().count('"history"') >= before + READERS, "the answers")
        assert service.pve("reset").json["outcome"] == "done"
        assert resident_kib(service.process.pid) - at_first < MOST_MIB * 1024
        with ThreadPoolExecutor(16) as pool:
            lengths = [len(answer) for answer in pool.map(read_all, reversed(readers))]
    assert 1 <= sum(length > len(PICTURE) * 0.7 for length in lengths) <= MOST_WHOLE
