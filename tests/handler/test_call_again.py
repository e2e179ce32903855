"""`call` sends a lost request again with `"again":true`."""

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


class Losing(BaseHTTPRequestHandler):
    """Plays a handler whose first answer is lost. `bodies` has the requests that it got."""

    bodies: list[dict[str, object]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.bodies.append(body)
        if len(self.bodies) == 1:
            return  # the connection ends without an answer
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(DONE).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Losing.bodies = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Losing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_repeated_request_says_so(url: str) -> None:
    """The request says `again`, so that the handler asks every host of the VM whether it knows the id."""
    signer = Signer(url, secret_bytes(new_secret()))
    assert call(signer, new_id(), VerbCall("cycle"), lambda line: None)["outcome"] == "done"
    assert [body.get("again") for body in Losing.bodies] == [None, True]


def test_a_request_under_an_earlier_id_is_a_repeated_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--id` names an earlier request, so the command says that it repeats one."""
    monkeypatch.setenv("BREAKGLASS_URL", url)
    monkeypatch.setenv("BREAKGLASS_SECRET", new_secret())
    Losing.bodies.append({})  # no answer is lost
    monkeypatch.setattr("sys.argv", ["breakglass", "call", "cycle", "--quiet", "--id", new_id()])
    main()
    assert [body.get("again") for body in Losing.bodies[1:]] == [True]
