"""Many requests with a fault somewhere. Each is answered, none with a 5xx, and no connection is reset."""

import http.client
import json
import socket
import threading
import time
from collections import Counter

import httptools
import pytest

from breakglass.auth.signing import secret_bytes
from breakglass.client import new_id

from ..support.mutations import Mutations
from ..support.selection import sampled
from ..support.service import Service

pytestmark = [pytest.mark.first, pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd", "service")]

SEED = 20261127
CONNECTIONS = 4
FEW, MANY = 400, 10_000


class Oracle:
    """The handler's own parser, as the judge of a request's bytes."""

    def __init__(self, data: bytes) -> None:
        self.method = data.partition(b" ")[0].decode("latin-1")
        self._whole, self._in_body, self._spoiled = 0, False, False
        self._parser = httptools.HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._spoiled = True

    def on_message_begin(self) -> None:
        self._in_body = False
        self._spoiled |= self._whole > 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self._spoiled |= self._in_body  # a trailer, at which the handler closes

    def on_headers_complete(self) -> None:
        self._in_body = True

    def on_message_complete(self) -> None:
        self._whole += 1

    @property
    def is_half(self) -> bool:
        """Tell whether the handler would wait for more."""
        return self._whole == 0 and not self._spoiled

    @property
    def is_clean(self) -> bool:
        """Tell whether this is one request, and nothing else."""
        return self._whole == 1 and not self._spoiled


class Peer(threading.Thread):
    """Sends requests over connections that are kept alive, and counts what comes back."""

    def __init__(self, port: int, seed: int, count: int, key: bytes) -> None:
        super().__init__()
        self._port, self._seed, self._count, self._key = port, seed, count, key
        self._socket: socket.socket | None = None
        self.found: Counter[str] = Counter()
        self.bad: list[str] = []

    def run(self) -> None:
        """Send all requests."""
        requests = Mutations(self._seed, self._key, lambda: int(time.time())).requests(self._count)
        for number, data in enumerate(requests):
            what = self._exchange(data, Oracle(data))
            self.found[what] += 1
            if what[0] == "5" or what.startswith("bad"):
                self.bad.append(f"seed {self._seed}, request {number}: {what}: {data[:300]!r}")
        self._close()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _exchange(self, data: bytes, oracle: Oracle) -> str:
        """Return the answer's status, or the bytes that came instead."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=120)
        try:
            self._socket.sendall(data)
            if oracle.is_half:
                self._close()
                return "left"
            response = http.client.HTTPResponse(self._socket, method=oracle.method)
            response.begin()
            response.read()
            if not oracle.is_clean or response.will_close:
                self._close()
            return str(response.status)
        except http.client.RemoteDisconnected:
            self._close()
            return "bad: no answer" if oracle.is_clean else "closed"
        except (OSError, http.client.HTTPException) as error:
            self._close()
            return f"bad: {error!r}"


def send_all(port: int, seed: int, count: int, key: bytes) -> tuple[Counter[str], list[str]]:
    """Send requests over several connections at once; return what was answered, and each bad answer."""
    peers = [Peer(port, seed + n, count // CONNECTIONS, key) for n in range(CONNECTIONS)]
    for peer in peers:
        peer.start()
    for peer in peers:
        peer.join()
    return sum((peer.found for peer in peers), Counter()), [line for peer in peers for line in peer.bad]


def check_answers(service: Service, seed: int, count: int) -> None:
    """Send requests; no answer is bad, the log has no defect, and the VM has no job."""
    pid, before, jobs = service.process.pid, len(service.log()), service.pve("history").json["jobs"]
    found, bad = send_all(service.port, seed, count, secret_bytes(service.secrets["viewer"]))
    assert bad == [], f"{len(bad)} of {count} are bad; {found}"
    assert sum(found.values()) == count
    assert found["401"] > 0
    assert found["403"] > count / 10, found  # authenticated, but 403
    assert found["400"] > 0
    assert service.pve("status").json["state"] == "running"
    last = new_id()
    assert service.pve("history", msg_id=last).json["jobs"] == jobs
    assert service.process.pid == pid
    assert service.process.poll() is None
    lines = [json.loads(line) for line in service.logged(last)[before:].splitlines()]
    assert {line["event"] for line in lines} <= {"request", "alert", "lines-lost", "host-up"}  # if it is slow


@pytest.mark.parametrize("count", sampled([FEW, MANY], FEW))
def test_mutated_requests_are_answered(service: Service, count: int) -> None:
    """None of them is answered with a 5xx."""
    check_answers(service, SEED + count, count)
