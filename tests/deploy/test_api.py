"""docs/api.md and docs/openapi.yaml as their readers use them: clients that know nothing else, on the demo."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ..support.contract import OPENAPI
from ..support.documents import settings
from .test_demo import Demo

pytestmark = pytest.mark.slow  # it starts the demo

[CLIENT] = settings("docs/api.md", "The smallest correct client")
LATE = "import time; real = time.time; time.time = lambda: real() - 4000\n"
GENERATED = """\
import base64, hmac, secrets, sys, time
import httpx
from made.api.default import health, pve
from made.client import Client
from made.models.request import Request
from made.models.verb import Verb

class Sign(httpx.Auth):
    requires_request_body = True

    def auth_flow(self, request):
        msg_id, now = request.headers["webhook-id"], str(int(time.time()))
        mac = hmac.digest(base64.b64decode(sys.argv[2][6:]), f"{msg_id}.{now}.".encode() + request.content, "sha256")
        request.headers["webhook-timestamp"] = now
        request.headers["webhook-signature"] = "v1," + base64.b64encode(mac).decode()
        yield request

client = Client(base_url=sys.argv[1], timeout=httpx.Timeout(100), httpx_args={"auth": Sign()})
signed = {"webhook_timestamp": "", "webhook_signature": "", "prefer": "wait=90"}
print(health.sync(client=Client(base_url=sys.argv[1])).vms[0].proxmox)
for verb in (Verb.STATUS, Verb.CYCLE):
    body = Request(verb=verb, vm="devvm", to=sys.argv[1] + "/")
    answer = pve.sync(client=client, body=body, webhook_id="msg_" + secrets.token_hex(12), **signed)
    print(answer.verb, answer.outcome, answer.state, answer.reached, answer.by, answer.started is not None)
"""


@pytest.fixture(scope="module")
def demo() -> Iterator[tuple[str, str]]:
    """The URL of a running demo, and its signing key."""
    demo = Demo("--no-chat", "--scenario", "idle")
    found = re.search(r"(http://127\.0\.0\.1:\d+)/#key=(whsec_\S+)", demo.text)
    assert found
    try:
        yield found[1], found[2]
    finally:
        demo.end(signal.SIGTERM)


def run_client(url: str, secret: str, verb: str, before: str = "") -> tuple[str, dict[str, Any]]:
    """Run the client of the document; return the id and the answer that it prints."""
    environment = os.environ | {"BREAKGLASS_URL": url, "BREAKGLASS_SECRET": secret}
    command = [sys.executable, "-c", before + CLIENT, verb, "devvm"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    msg_id, _, answer = ran.stdout.partition(" ")
    return msg_id, json.loads(answer)


@contextmanager
def lossy(handler: str) -> Iterator[tuple[str, list[str]]]:
    """A proxy that passes on each request, and answers the first with 502; yield its URL, and the ids."""
    ids: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name: value for name, value in self.headers.items() if name.lower().startswith("webhook-")}
            body = self.rfile.read(int(self.headers["content-length"]))
            ids.append(self.headers["webhook-id"])
            try:
                answer = urllib.request.urlopen(urllib.request.Request(handler + self.path, body, headers), timeout=60)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                status, data = (answer.status, answer.read()) if len(ids) > 1 else (502, b"<html>Bad Gateway</html>")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Write nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", ids
        server.shutdown()


@pytest.mark.all
def test_the_smallest_client_is_small_and_correct(demo: tuple[str, str]) -> None:
    """It has 25 lines, and cycles the VM once although the first answer is lost and its clock is an hour late."""
    url, secret = demo
    assert len([line for line in CLIENT.splitlines() if line.strip()]) <= 25
    _, status = run_client(url, secret, "status")
    assert (status["outcome"], status["state"], status["reached"]) == ("done", "running", True)
    with lossy(url) as (proxy, ids):
        msg_id, cycle = run_client(proxy, secret, "cycle")
    assert (cycle["outcome"], cycle["attached"], ids) == ("done", True, [msg_id] * len(ids))
    msg_id, reset = run_client(url, secret, "reset", before=LATE)
    assert (reset["outcome"], reset["id"]) == ("done", msg_id)
    _, unknown = run_client(url, secret, "frob")
    assert unknown["outcome"] == "rejected"
    _, refused = run_client(url, "whsec_" + base64.b64encode(bytes(32)).decode(), "status")
    assert refused["code"] == "unauthorized"


@pytest.mark.all
def test_a_generated_client_reads_and_acts(demo: tuple[str, str], tmp_path: Path) -> None:
    """A client that openapi-python-client makes from the schema runs `status` and `cycle`, and reads each answer."""
    url, secret = demo
    tool = str(Path(sys.executable).with_name("openapi-python-client"))
    make = [tool, "generate", "--path", str(OPENAPI), "--output-path", str(tmp_path / "made"), "--meta", "none"]
    made = subprocess.run(make, capture_output=True, text=True, timeout=120, check=True)
    assert "WARNING" not in made.stdout + made.stderr
    script = [sys.executable, "-c", GENERATED, url, secret]
    ran = subprocess.run(script, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert ran.stdout.splitlines() == [
        "answering",
        "status done running True demo False",
        "cycle done running True demo True",
    ], ran.stderr
