"""The work of a turn's proxy: passes requests to the model's API, with the credential in the place of the turn's token.

Standard library only. `model_requests.py` decides what is passed on; one header of it is replaced. The answer goes back
as it comes, whatever its status, so claude sees the API's own errors and limits. Where the API does not answer, claude
gets a 502 in the API's form, which it tries again like every 5xx.
"""

import base64
import json
import socket
import threading
from functools import cached_property
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import unquote, urlsplit

from ..base.reasons import reason
from ..config.model_api import API_KEY, OAUTH_TOKEN, ModelApi
from .http_messages import HttpError, Response, get_all, read_body, read_headers, read_line, read_response
from .model_requests import RefusedError, Request, passed_on, read_request

if TYPE_CHECKING:
    import ssl

CONNECTIONS = 8  # of claude's at once
CONNECT_SECONDS = 10.0
STRANGER_SECONDS = 10.0  # for a program that does not show the token: there is not much room
_MOST_MODELS_BYTES = 1 << 20  # of the list of models
SILENT_SECONDS = 600.0  # the runner's own limit for silence is shorter, and ends the turn


class Connection:
    """A connection to the API."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self.incoming = connected.makefile("rb")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.settimeout(SILENT_SECONDS)

    def ask(self, head: bytes, body: bytes) -> Response:
        """Send a request and return the head of its answer."""
        self._socket.sendall(head + body)
        return read_response(self.incoming)

    def close(self) -> None:
        """Close it."""
        self.incoming.close()
        self._socket.close()


Answer = tuple[Connection, Response]


def serve(listening: int, api: ModelApi, token: str) -> None:
    """Serve one turn on a descriptor that listens, until this process is ended."""
    listener = socket.socket(fileno=listening)
    forwarder = Forwarder(api, token)
    threading.Thread(target=forwarder.connect_early, daemon=True).start()
    room = threading.Semaphore(CONNECTIONS)
    while True:
        client, _ = listener.accept()
        room.acquire()
        threading.Thread(target=_serve_client, args=(forwarder, client, room), daemon=True).start()


def _serve_client(forwarder: "Forwarder", client: socket.socket, room: threading.Semaphore) -> None:
    try:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(STRANGER_SECONDS)
        with client, client.makefile("rb") as incoming:
            while forwarder.answer(client, incoming):
                pass
    except OSError:  # either side broke off: the other one sees that too
        pass
    finally:
        room.release()


class Forwarder:
    """Answers claude's requests with the API's answers."""

    def __init__(self, api: ModelApi, token: str) -> None:
        self._api = api
        self._url = urlsplit(api.base_url)
        self._header = "x-api-key" if api.variable == API_KEY else "authorization"
        self._prefix = "" if api.variable == API_KEY else "Bearer "
        self._token = f"{self._prefix}{token}".encode()
        self._idle: list[Connection] = []

    # --- claude's side ---

    def answer(self, client: socket.socket, incoming: BinaryIO) -> bool:
        """Answer one request; return whether another may follow on this connection."""
        try:
            request = read_request(incoming, self._header, self._token)
            if request is None:
                return False
            client.settimeout(SILENT_SECONDS)
            connection, response = self._ask(request)
        except RefusedError as refused:
            error = {"type": "error", "error": {"type": refused.kind, "message": refused.message}}
            body = json.dumps(error).encode()
            _send_head(client, refused.status, "Refused", [("content-type", "application/json")], len(body), "close")
            client.sendall(body)
            return False
        try:
            _pass_on(connection, response, client)
        except BaseException:
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        return True

    # --- the API's side ---

    def list_models(self) -> tuple[Response, bytes]:
        """Ask the API for its models, which costs nothing; return its answer and the body. Raises OSError."""
        credential = (self._header, self._prefix + self._api.credential)
        own = [("host", self._url.netloc), credential, ("accept", "application/json"), ("connection", "close")]
        own += [("anthropic-version", "2023-06-01")]
        own += [("anthropic-beta", "oauth-2025-04-20")] if self._api.variable == OAUTH_TOKEN else []
        connection = self._connect()
        try:
            target = f"{self._url.path.rstrip('/')}/v1/models?limit=1"
            response = connection.ask(_build_head(f"GET {target} HTTP/1.1", *own), b"")
            body = b""
            for piece in read_body(connection.incoming, response):
                body += piece
                if len(body) > _MOST_MODELS_BYTES:
                    break
            return response, body
        finally:
            connection.close()

    def connect_early(self) -> None:
        """Have a connection ready for claude's first request, which takes as long to come."""
        try:
            self._idle.append(self._connect())
        except OSError:  # the first request finds the same, and reports it
            pass

    def _ask(self, request: Request) -> Answer:
        """Send a request to the API and return the connection and its answer, of which the body is still to come."""
        try:
            connection, response = self._ask_idle(request) or self._ask_over(self._connect(), request)
        except OSError as error:
            raise RefusedError(502, "api_error", f"{self._api.base_url}: {_describe(error)}") from None
        if 300 <= response.status < 400:
            connection.close()
            place = next(iter(get_all(response.headers, "location")), "no address")[:200]
            why = f"{self._api.base_url}: it sends to {place}; set chat.base_url to where the API is"
            raise RefusedError(502, "api_error", why)
        return connection, response

    def _ask_idle(self, request: Request) -> Answer | None:
        """Ask over a connection that is there already; return None if there is none that the API has not closed."""
        while self._idle:
            try:
                return self._ask_over(self._idle.pop(), request)
            except TimeoutError:
                raise
            except OSError:
                continue
        return None

    def _ask_over(self, connection: Connection, request: Request) -> Answer:
        path = self._url.path.rstrip("/") + request.target
        credential = (self._header, self._prefix + self._api.credential)
        own = (("host", self._url.netloc), credential, ("content-length", str(len(request.body))))
        head = _build_head(f"POST {path} HTTP/1.1", *own, *request.headers)
        try:
            return connection, connection.ask(head, request.body)
        except BaseException:
            connection.close()
            raise

    def _connect(self) -> Connection:
        """Return a new connection, with TLS verified where the address says so."""
        host = self._url.hostname or ""
        if self._url.scheme == "http":
            return Connection(socket.create_connection((host, self._url.port or 80), CONNECT_SECONDS))
        context, port = self._tls, self._url.port or 443
        if self._api.https_proxy:
            connected = self._open_tunnel(host, port)
        else:
            connected = socket.create_connection((host, port), CONNECT_SECONDS)
        try:
            return Connection(context.wrap_socket(connected, server_hostname=host))
        except BaseException:
            connected.close()
            raise

    @cached_property
    def _tls(self) -> "ssl.SSLContext":
        """The rule for certificates: the system's authorities, or those of chat.ca_file alone."""
        import ssl  # an API on this machine needs none

        try:
            return ssl.create_default_context(cafile=self._api.ca_file or None)
        except OSError as error:
            raise OSError(f"chat.ca_file can't be used: {reason(error)}") from None

    def _open_tunnel(self, host: str, port: int) -> socket.socket:
        proxy = urlsplit(self._api.https_proxy)
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        headers = [("host", target)]
        if proxy.username is not None:
            user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
            headers.append(("proxy-authorization", f"Basic {base64.b64encode(user.encode()).decode()}"))
        connected = socket.create_connection((proxy.hostname or "", proxy.port or 80), CONNECT_SECONDS)
        try:
            connected.sendall(_build_head(f"CONNECT {target} HTTP/1.1", *headers))
            with connected.makefile("rb", 0) as unbuffered:  # what follows belongs to TLS
                incoming = cast(BinaryIO, unbuffered)
                line = read_line(incoming)
                read_headers(incoming)
            if not line.startswith(("HTTP/1.1 2", "HTTP/1.0 2")):
                raise HttpError(f"chat.https_proxy answered: {line[:100]}")
        except BaseException:
            connected.close()
            raise
        return connected


def _pass_on(connection: Connection, response: Response, client: socket.socket) -> None:
    """Send the API's answer as it comes. Raises OSError when either side breaks off."""
    headers = list(passed_on(response.headers))
    _send_head(client, response.status, response.reason, headers, response.length, "keep-alive")
    for piece in read_body(connection.incoming, response):
        client.sendall(piece if response.length is not None else b"%x\r\n%s\r\n" % (len(piece), piece))
    if response.length is None:
        client.sendall(b"0\r\n\r\n")


def _send_head(
    client: socket.socket, status: int, reason: str, headers: list[tuple[str, str]], length: int | None, keep: str
) -> None:
    body = ("transfer-encoding", "chunked") if length is None else ("content-length", str(length))
    client.sendall(_build_head(f"HTTP/1.1 {status} {reason}", *headers, body, ("connection", keep)))


def _build_head(line: str, *headers: tuple[str, str]) -> bytes:
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in headers), "", ""]).encode("latin-1")


def _describe(error: Exception) -> str:
    """Return why a connection failed, in the words of the system."""
    certificate = getattr(error, "verify_message", "")
    return f"its certificate is not good: {certificate}" if certificate else reason(error)
