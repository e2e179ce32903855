"""docs/api.md as its readers use it: a client that knows nothing else, on the demo."""

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
from typing import Any

import pytest

from ..support.documents import settings
from .test_demo import Demo

pytestmark = pytest.mark.slow  # it starts the demo

[CLIENT] = settings("docs/api.md", "The smallest correct client")
LATE = "import time; real = time.time; time.time = lambda: real() - 4000\n"


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
