"""A turn's proxy to the model's API without a turn, and servers that can be behind it: TLS, and an HTTPS proxy."""

import contextlib
import http.client
import importlib.util
import json
import select
import socket
import socketserver
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from breakglass.config.model_api import ModelApi

from .model import Model

Server = TypeVar("Server", bound=socketserver.BaseServer)
MESSAGES = "/v1/messages?beta=true"
# It can import only what it has in its sandbox: the standard library, h11 and our package.
_START = """
import sys
sys.path.append({place!r})
from breakglass.chat import model_connection, proxy
model_connection.SILENT_SECONDS = {silent}
if {uid}:  # which may not read the checkout
    import ctypes, os, encodings.idna
    os.setgroups([])
    os.setgid({uid})
    os.setuid({uid})
    ctypes.CDLL(None).prctl(4, 1)  # as one that was started by this user
proxy.main()
"""


class UnixConnection(http.client.HTTPConnection):
    """A client's connection to a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


class TurnProxy:
    """A running proxy, and a client in the place of claude."""

    def __init__(self, path: str, pid: int) -> None:
        self.path, self.pid = path, pid

    @contextlib.contextmanager
    def open(
        self, body: bytes, headers: Mapping[str, str] | None = None, method: str = "POST", target: str = MESSAGES
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request, and yield its answer as soon as the answer has begun."""
        with contextlib.closing(UnixConnection(self.path)) as connection:
            connection.request(method, target, body, dict(headers or {}))
            with connection.getresponse() as response:
                yield response

    def ask(self, words: str = "hello", headers: Mapping[str, str] | None = None, **fields: object) -> tuple[int, str]:
        """Ask for a message; return the status and the body."""
        with self.open(message(words, **fields), headers) as response:
            return response.status, response.read().decode()


def message(words: str, **fields: object) -> bytes:
    """Return a request for a message."""
    content = [{"role": "user", "content": words}]
    return json.dumps({"model": "m", "stream": True, "messages": content, **fields}).encode()


@contextlib.contextmanager
def turn_proxy(api: ModelApi, authorities: str = "", uid: int = 0, silent: float = 600) -> Iterator[TurnProxy]:
    """Run the proxy of a turn. It must end without any output."""
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as listener:
        for name in ("h11", "breakglass"):
            spec = importlib.util.find_spec(name)
            Path(place, name).symlink_to(Path(spec.origin if spec and spec.origin else "").parent)
        listener.bind(f"{place}/model")
        listener.listen()
        start = _START.format(place=place, uid=uid, silent=silent)
        with subprocess.Popen(
            [sys.executable, "-IS", "-c", start, str(listener.fileno())],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        ) as process:
            listener.close()  # so that a client does not wait for a proxy that has ended
            assert process.stdin is not None
            assert process.stderr is not None
            given = json.dumps({"api": api._asdict(), "authorities": authorities})
            process.stdin.write(f"{given}\n".encode())
            process.stdin.flush()
            try:
                yield TurnProxy(f"{place}/model", process.pid)
            finally:
                process.kill()
            assert process.stderr.read() == b""


# --- TLS ---


class Relay(socketserver.ThreadingTCPServer):
    """Forwards bytes to a server after its own handshake, which is that of TLS or of an HTTPS proxy.

    `taken` is the number of accepted connections.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, context: ssl.SSLContext | None, target: int = 0) -> None:
        self.context, self.target, self.seen, self.taken = context, target, b"", 0
        super().__init__(("127.0.0.1", 0), _Relayed)
        self.port = self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Report nothing, because a client that rejects a certificate just closes."""


class _Relayed(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        client, target = self.request, self.server.target
        self.server.taken += 1
        if self.server.context:
            client = self.server.context.wrap_socket(client, server_side=True)
        else:
            head = b""
            while b"\r\n\r\n" not in head:
                head += (byte := client.recv(1))
                if not byte:  # a connection that was opened early and never used
                    return
            self.server.seen += head
            target = int(head.split(b" ")[1].rpartition(b":")[2])
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with client, socket.create_connection(("127.0.0.1", target)) as there:
            while True:
                pending = self.server.context and client.pending()
                for ready in [client] if pending else select.select([client, there], [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    self.server.seen += data
                    (there if ready is client else client).sendall(data)


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Run a server in a thread."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def relay(context: ssl.SSLContext | None, target: int = 0) -> contextlib.AbstractContextManager[Relay]:
    """Run a relay."""
    return running(Relay(context, target))


def tls_relay(model: Model, context: ssl.SSLContext) -> contextlib.AbstractContextManager[Relay]:
    """Put TLS in front of a model."""
    return relay(context, int(model.url.rpartition(":")[2]))
