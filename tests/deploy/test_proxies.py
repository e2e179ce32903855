"""The proxies of deploy/, with TLS 1.3 and HTTP/2, in front of a real handler whose host waits for the tests."""

import http.client
import json
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from breakglass.client import new_id
from breakglass.demo.proxmox.world import World
from breakglass.web.client_headers import MOST_WAIT_SECONDS

from ..handler.test_reload import wait_until
from ..support.documents import settings
from ..support.front import DEPLOY, Front, front
from ..support.scripted import Rules, Scripted, output, result, stage
from ..support.selection import sampled
from ..support.service import Service
from ..support.sshd import Sshd

pytestmark = [
    pytest.mark.real("sshd", "nginx", "caddy", "curl"),
    pytest.mark.shared("world", "sshd"),
]

LONG = "a line of the output\n" * 10_000
STEPS = ("first", "second", "third")
RULES: Rules = [
    ("reset", [stage("reset"), *({"wait": STEPS[0]}, output("one\n"), {"wait": STEPS[1]}, output("two\n"))]),
    ("stop", [stage("stop"), {"wait": "go"}, output(LONG), result()]),
    ("ping", [result(vms="102")]),
    ("", [result(jobs=[])]),
]
RULES[0][1].extend([{"wait": STEPS[2]}, result()])
PROXIES = '[server]\nproxies = ["127.0.0.1"]\n'
BOTH = pytest.mark.parametrize("name", ["nginx", "caddy"])


@pytest.fixture(scope="module")
def script(shared_world: World) -> Scripted:
    return Scripted(shared_world, RULES)


@pytest.fixture(scope="module")
def service(directory: Path, script: Scripted, shared_sshd: Sshd) -> Iterator[Service]:
    sshd = shared_sshd
    service = Service(directory, port=sshd.port, key=sshd.power_key, host_key=[sshd.host_key], extra=PROXIES)
    try:
        service.answering()
        yield service
    finally:
        service.stop()


@pytest.fixture
def held(script: Scripted) -> Scripted:
    """The host, on which each verb waits again."""
    for file in (*STEPS, "go"):
        (script.place / file).unlink(missing_ok=True)
    script.say(RULES)
    return script


class Fronts:
    """The proxies in front of the handler, each of which is started for the first test that needs it."""

    def __init__(self, directory: Path, service: Service) -> None:
        self._directory, self._service = directory, service
        self._running: dict[str, Front] = {}
        self.stack = ExitStack()

    def __getitem__(self, name: str) -> Front:
        if name not in self._running:
            place = self._directory / name.replace(" ", "-")
            self._running[name] = self.stack.enter_context(front(name, place, self._service.port))
        return self._running[name]


@pytest.fixture(scope="module")
def fronts(directory: Path, service: Service) -> Iterator[Fronts]:
    fronts = Fronts(directory, service)
    with fronts.stack:
        yield fronts


def signed_call(service: Service, verb: str, *headers: str, msg_id: str = "") -> list[str]:
    """Return curl's options for a signed verb."""
    body = json.dumps({"verb": verb, "vm": "devvm"}).encode()
    lines = [f"{name}: {value}" for name, value in service.signed(body, msg_id=msg_id).items()]
    return [*(part for line in (*lines, *headers) for part in ("-H", line)), "--data-binary", body.decode()]


def run(command: list[str]) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def ask(front: Front, service: Service, verb: str, *headers: str, msg_id: str = "") -> tuple[int, dict[str, Any]]:
    """Send a signed verb through a proxy; return the status and the answer, which has to be JSON."""
    options = signed_call(service, verb, *headers, msg_id=msg_id)
    *lines, status = run(front.curl("pve", "-w", "\n%{http_code}", *options)).splitlines()
    return int(status), json.loads("".join(lines))


# --- streams ---

WAYS = [(name, version) for name in ("nginx", "caddy", "plain nginx") for version in ("--http2", "--http1.1")]
# a server block without "http2 on" speaks HTTP/1.1 alone
WAYS.remove(("plain nginx", "--http2"))


@pytest.mark.parametrize(("name", "version"), sampled(WAYS, ("nginx", "--http2"), ("nginx", "--http1.1")))
def test_each_line_arrives_before_the_next_is_sent(
    fronts: Fronts, service: Service, held: Scripted, name: str, version: str
) -> None:
    """The host waits before each message until the client has read the one before."""
    options = signed_call(service, "reset", "accept: application/x-ndjson")
    command = fronts[name].curl("pve", "-w", "%{stderr}%{http_version}", *options, version=version)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stderr is not None
        lines = (line for line in map(json.loads, client.stdout) if line["type"] != "ping")
        try:
            assert [next(lines)["type"] for _ in range(2)] == ["accepted", "stage"]
            for step, expected in zip(STEPS, ("one\n", "two\n", None), strict=True):
                held.let_go(step)
                assert next(lines).get("text") == expected
            assert next(lines, None) is None
        finally:
            client.terminate()
        assert client.stderr.read() == (b"2" if version == "--http2" else b"1.1")


# --- one object ---


@pytest.mark.all
def test_a_json_answer_after_50_seconds_is_whole(fronts: Fronts, service: Service, held: Scripted) -> None:
    """With `Prefer: wait=60`, through the proxies of deploy/.

    Through an nginx that has nothing but proxy_pass, and cuts after 60 s, the default is an answer of ours: 202, and
    then the same id attaches. This takes 50 s by the handler's own clock.
    """
    wait = "prefer: wait=60"
    plain_id = new_id()
    for name in ("nginx", "caddy", "plain nginx"):
        assert fronts[name]  # it runs before the first request is sent
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ask, fronts[name], service, "stop", wait) for name in ("nginx", "caddy")]
        cut = pool.submit(ask, fronts["plain nginx"], service, "stop", msg_id=plain_id)
        wait_until(lambda: len(held.asked("stop")) == 3)
        body = b'{"verb":"stop","vm":"devvm"}'
        after_50 = service.send("POST", "/pve", body, {**service.signed(body), "prefer": "wait=50"})
        assert after_50.json["outcome"] == "running"
        status, early = cut.result()
        assert (status, early["outcome"], early["reached"]) == (202, "running", True)
        assert [each.done() for each in waiting] == [False, False]
        held.let_go("go")
        for each in waiting:
            status, answer = each.result()
            assert (status, answer["outcome"], answer["stdout"]) == (200, "done", LONG)
    status, answer = ask(fronts["plain nginx"], service, "stop", msg_id=plain_id)
    assert (status, answer["outcome"], answer["id"]) == (200, "done", plain_id)


def test_the_document_has_the_same_configurations() -> None:
    """What a person copies from docs/proxies.md is what the tests run; nginx waits longer than the handler answers."""
    [nginx], [caddy] = settings("docs/proxies.md", "nginx"), settings("docs/proxies.md", "Caddy")
    assert nginx == (DEPLOY / "nginx/breakglass.conf").read_text()
    assert caddy == (DEPLOY / "caddy/Caddyfile").read_text()
    for file in DEPLOY.glob("nginx/*.conf"):
        [seconds] = re.findall(r"proxy_read_timeout (\d+)s;", file.read_text())
        assert int(seconds) > MOST_WAIT_SECONDS
    assert not any("timeout" in file.read_text() for file in DEPLOY.glob("caddy/*"))


# --- headers ---


SENT = {
    "webhook-id": "msg_" + "Az0_-9" * 10,
    "webhook-timestamp": "1795526935",
    "webhook-signature": " ".join(["v1,+/" + "A" * 41 + "="] * 5),
    "x-grafana-alerting-signature": "0123456789abcdef" * 4,
    "x-grafana-alerting-timestamp": "1795526935",
    "authorization": "Bearer bgt_" + "Az0_-9" * 16,
    "content-type": "application/json; charset=utf-8",
    "accept": "application/x-ndjson, */*;q=0.5",
    "accept-encoding": "gzip;q=0, identity",
    "prefer": 'wait=60, x="a, b"; c',
    "user-agent": "Grafana/12 (a: b)",
    "if-none-match": 'W/"a", "b"',
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "x-spaces": "a  b\tc",
    "x-long": "x" * 4000,
    "x-empty-list": ", ,",
}
BODY = bytes(range(256)) * 64  # 16 KiB, the longest body of a verb


class Recorder(BaseHTTPRequestHandler):
    """Answers each request with nothing, and keeps what arrived."""

    begun: list[str]
    arrived: list[tuple[dict[str, list[str]], bytes]]

    def do_POST(self) -> None:
        self.begun.append(self.path)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.arrived.append(({name: self.headers.get_all(name, []) for name in SENT}, body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def recording() -> Iterator[tuple[int, type[Recorder]]]:
    """Run a server in place of the handler; give its port and what keeps the requests."""
    kind = type("Recording", (Recorder,), {"begun": [], "arrived": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], kind
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.all
@BOTH
def test_what_a_client_sends_arrives_unaltered(tmp_path: Path, name: str) -> None:
    """Sixteen headers, those of all signatures among them, and a body of all bytes, over both versions of HTTP.

    A short request that ends later begins later: Caddy can cut off the answer of one that it still reads.
    """
    (tmp_path / "body").write_bytes(BODY)
    headers = [part for item in SENT.items() for part in ("-H", "{}: {}".format(*item))]
    with recording() as (port, kept), front(name, tmp_path / "front", port) as proxy:
        for version in ("--http2", "--http1.1"):
            for path in ("pve", "bg/pve"):
                run(proxy.curl(path, *headers, "--data-binary", f"@{tmp_path}/body", version=version))
        assert len(kept.arrived) == 4
        for found, body in kept.arrived:
            assert (found, body) == ({header: [value] for header, value in SENT.items()}, BODY)
        kept.begun.clear()
        context = ssl.create_default_context(cafile=str(proxy.ca))
        with closing(http.client.HTTPSConnection("localhost", proxy.port, context=context, timeout=120)) as slow:
            slow.putrequest("POST", "/slow")
            slow.putheader("content-length", "8")
            slow.endheaders(b"half")
            run(proxy.curl("whole", "--data-binary", "whole"))
            slow.send(b"half")
            assert slow.getresponse().status == 204
    assert kept.begun == ["/whole", "/slow"]


# --- a sub-path ---


@pytest.mark.all
@BOTH
def test_the_handler_below_a_path(fronts: Fronts, service: Service, tmp_path: Path, name: str) -> None:
    """The page with its files, and `breakglass call`, which speaks HTTP/1.1."""
    proxy = fronts[name]
    moved = run(proxy.curl("bg", "-o", "/dev/null", "-w", "%{redirect_url}"))
    assert moved == f"{proxy.url}bg/"
    page = run(proxy.curl("bg/"))
    assert page == run(proxy.curl(""))
    for file in re.findall(r'(?:href|src)="([a-z]+\.(?:js|css))"', page):
        assert run(proxy.curl(f"bg/{file}")) == run(proxy.curl(file))
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text(service.secrets["operator"])
    given = {"BREAKGLASS_URL": f"{proxy.url}bg/", "BREAKGLASS_SECRET_FILE": str(secret), "SSL_CERT_FILE": str(proxy.ca)}
    command = [sys.executable, "-m", "breakglass", "call", "status", "--vm", "devvm", "--json"]
    called = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=False)
    assert called.returncode == 0, called.stderr
    assert json.loads(called.stdout)["outcome"] == "done"
