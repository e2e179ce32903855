"""The proxies of deploy/, with TLS 1.3 and HTTP/2, in front of a real handler whose host waits for the tests."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from breakglass.demo.proxmox.world import World
from breakglass.web.client_headers import MOST_WAIT_SECONDS

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

STEPS = ("first", "second", "third")
RULES: Rules = [
    ("reset", [stage("reset"), *({"wait": STEPS[0]}, output("one\n"), {"wait": STEPS[1]}, output("two\n"))]),
    ("ping", [result(vms="102")]),
    ("", [result(jobs=[])]),
]
RULES[0][1].extend([{"wait": STEPS[2]}, result()])
PROXIES = '[server]\nproxies = ["127.0.0.1"]\n'


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
    for file in STEPS:
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


# --- streams ---

WAYS = [("nginx", "--http2"), ("caddy", "--http2"), ("plain nginx", "--http1.1")]  # which has no "http2 on"


@pytest.mark.parametrize(("name", "version"), sampled(WAYS, ("nginx", "--http2")))
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


def test_the_document_has_the_same_configurations() -> None:
    """What a person copies from docs/proxies.md is what the tests run; nginx waits longer than the handler answers."""
    [nginx], [caddy] = settings("docs/proxies.md", "nginx"), settings("docs/proxies.md", "Caddy")
    assert nginx == (DEPLOY / "nginx/breakglass.conf").read_text()
    assert caddy == (DEPLOY / "caddy/Caddyfile").read_text()
    for file in DEPLOY.glob("nginx/*.conf"):
        [seconds] = re.findall(r"proxy_read_timeout (\d+)s;", file.read_text())
        assert int(seconds) > MOST_WAIT_SECONDS
    assert not any("timeout" in file.read_text() for file in DEPLOY.glob("caddy/*"))


# --- a sub-path ---


@pytest.mark.all
@pytest.mark.parametrize("name", ["nginx", "caddy"])
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
