"""A turn's proxy to the model's API without a turn, and what can stand behind it: TLS, and an HTTPS proxy."""

import contextlib
import http.client
import json
import select
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from breakglass.config.model_api import ModelApi

from .model import Model

Server = TypeVar("Server", bound=socketserver.BaseServer)
EMPTY: Mapping[str, str] = {}
MESSAGES = "/v1/messages?beta=true"
# A process without threads starts it, as the runner does.
_START = """
import json, os, socket, sys
sys.path.insert(0, sys.argv[1])
from breakglass.claude.side_processes import start_model_proxy
from breakglass.claude.processes import PR_SET_DUMPABLE, prctl
from breakglass.config.model_api import ModelApi
api, uid = json.loads(sys.stdin.readline())
if uid:  # which may not read the checkout
    import breakglass.claude.model_forwarder
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    prctl(PR_SET_DUMPABLE, 1)  # as a handler that was started by this user
listener = socket.create_server(("127.0.0.1", 0))
port = listener.getsockname()[1]
print(json.dumps([port, *start_model_proxy(ModelApi(*api), listener.detach())]), flush=True)
sys.stdin.read()
"""


class TurnProxy:
    """A running proxy, and a client that claude could be."""

    def __init__(self, api: ModelApi, port: int, pid: int, variables: dict[str, str]) -> None:
        self.port, self.pid, self.variables = port, pid, variables
        token = self.variables[api.variable]
        self.token = (
            {"x-api-key": token} if api.variable == "ANTHROPIC_API_KEY" else {"authorization": f"Bearer {token}"}
        )

    @contextlib.contextmanager
    def open(
        self, headers: Mapping[str, str], body: bytes, method: str = "POST", target: str = MESSAGES
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request, and yield its answer as soon as it has begun."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, target, body, dict(headers))
            with connection.getresponse() as response:
                yield response

    def ask(self, words: str = "hello", stream: bool = True, headers: Mapping[str, str] = EMPTY) -> tuple[int, str]:
        """Ask for a message; return the status and the body."""
        with self.open({**self.token, **headers}, message(words, stream)) as response:
            return response.status, response.read().decode()


def message(words: str, stream: bool = True) -> bytes:
    """Return a request for a message."""
    return json.dumps({"model": "m", "stream": stream, "messages": [{"role": "user", "content": words}]}).encode()


@contextlib.contextmanager
def turn_proxy(api: ModelApi, uid: int = 0) -> Iterator[TurnProxy]:
    """Run the proxy of a turn."""
    root = str(Path(__file__).parent.parent.parent)
    with subprocess.Popen(
        [sys.executable, "-c", _START, root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps([api, uid]), file=process.stdin, flush=True)
        yield TurnProxy(api, *json.loads(process.stdout.readline()))
        process.stdin.close()


# --- TLS ---


class Authority:
    """A certificate authority that signs certificates for names; `file` has its own."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = directory / f"{name}.pem"
        constraint = x509.BasicConstraints(ca=True, path_length=None)
        usage = x509.KeyUsage(**{**dict.fromkeys(_USAGES, False), "key_cert_sign": True})
        own = self._certificate(self._name, self._key).add_extension(constraint, True).add_extension(usage, True)
        self.file.write_bytes(own.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def context(self, name: str) -> ssl.SSLContext:
        """Return what a server needs that has this name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = x509.SubjectAlternativeName([x509.DNSName(name)])
        signed = self._certificate(subject, key).add_extension(names, False).sign(self._key, hashes.SHA256())
        path = self._directory / f"{name}.key.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + signed.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())  # Python 3.13 accepts none without the two
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(own, False).add_extension(signer, False)
        return builder.not_valid_before(now - timedelta(1)).not_valid_after(now + timedelta(1))


_USAGES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


class Relay(socketserver.ThreadingTCPServer):
    """Passes bytes on to a server, after a handshake of its own: TLS's, or that of an HTTPS proxy."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, context: ssl.SSLContext | None, target: int = 0) -> None:
        self.context, self.target, self.seen = context, target, b""
        super().__init__(("127.0.0.1", 0), _Relayed)
        self.port = self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Report nothing: a client that does not like a certificate leaves."""


class _Relayed(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        client, target = self.request, self.server.target
        if self.server.context:
            client = self.server.context.wrap_socket(client, server_side=True)
        else:
            head = b""
            while b"\r\n\r\n" not in head:
                head += (byte := client.recv(1))
                if not byte:  # a connection that was made early, and not used
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


@contextlib.contextmanager
def with_tls(model: Model, context: ssl.SSLContext) -> Iterator[int]:
    """Put TLS in front of a model; yield the port."""
    with relay(context, int(model.url.rpartition(":")[2])) as server:
        yield server.port


class Fixed(socketserver.ThreadingTCPServer):
    """Answers each connection's first request with the same bytes, and closes it; `lines` has the requests' first."""

    daemon_threads = True

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.lines: list[bytes] = []
        super().__init__(("127.0.0.1", 0), _FixedAnswer)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _FixedAnswer(socketserver.StreamRequestHandler):
    server: Fixed

    def handle(self) -> None:
        line = self.rfile.readline()
        if line:  # not a connection that was made early, and not used
            length = int(http.client.parse_headers(self.rfile)["content-length"] or 0)  # none with a GET
            self.rfile.read(length)
            self.server.lines.append(line)
            self.wfile.write(self.server.answer)


def answering(answer: bytes) -> contextlib.AbstractContextManager[Fixed]:
    """Run a server that answers with these bytes."""
    return running(Fixed(answer))
