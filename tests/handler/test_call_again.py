"""`call` sends a lost request again with `"again":true`, and without it to a handler that does not know that field."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from breakglass.auth.signing import secret_bytes
from breakglass.cli.main import main
from breakglass.client import Signer, VerbCall, call, new_id

from ..support.service import new_secret

pytestmark = pytest.mark.slow  # `call` waits before it sends a request again

DONE = {"outcome": "done", "state": "running", "verb": "cycle", "vm": "devvm", "id": "msg_12345678"}
BAD = {"error": {"code": "bad-request", "message": 'unknown field "again"', "hint": "", "reached": False}}


class Older(BaseHTTPRequestHandler):
    """Plays an older handler: the first answer is lost, and `again` is refused. `bodies` are what it was sent."""

    bodies: list[dict[str, object]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.bodies.append(body)
        if len(self.bodies) == 1:
            return  # and the connection ends
        status, answer = (400, BAD) if "again" in body else (200, DONE)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Older.bodies = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Older) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_older_handler_gets_the_request_without_the_field(url: str) -> None:
    """During a rolling upgrade, an answer that was lost at one handler is fetched through another."""
    signer = Signer(url, secret_bytes(new_secret()))
    assert call(signer, new_id(), VerbCall("cycle"), lambda line: None)["outcome"] == "done"
    assert [body.get("again") for body in Older.bodies] == [None, True, None]


def test_a_request_under_an_earlier_id_is_a_repeated_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who gives `--id` asks again for what was sent before."""
    monkeypatch.setenv("BREAKGLASS_URL", url)
    monkeypatch.setenv("BREAKGLASS_SECRET", new_secret())
    Older.bodies.append({})  # no answer is lost
    monkeypatch.setattr("sys.argv", ["breakglass", "call", "cycle", "--id", new_id()])
    main()
    assert [body.get("again") for body in Older.bodies[1:]] == [True, None]
