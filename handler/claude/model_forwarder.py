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
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import unquote, urlsplit

from ..config.model_api import API_KEY, ModelApi
from .model_requests import PIECE, RefusedError, Request, passed_on, read_request

if TYPE_CHECKING:
    import ssl

CONNECTIONS = 8  # of claude's at once
CONNECT_SECONDS = 10.0
STRANGER_SECONDS = 10.0  # for a program that does not show the token: there is not much room
SILENT_SECONDS = 600.0  # the runner's own limit for silence is shorter, and ends the turn

Answer = tuple[HTTPConnection, HTTPResponse]


def serve(listening: int, api: ModelApi, token: str) -> None:
    """Serve one turn on a descriptor that listens, until this process is ended."""
    listener = socket.socket(fileno=listening)
    forwarder = Forwarder(api, token)
    threading.Thread(target=forwarder.connect_early, daemon=True).start()
    room = threading.Semaphore(CONNECTIONS)
    while True:
        room.acquire()
        client, _ = listener.accept()
        threading.Thread(target=_serve_client, args=(forwarder, client, room), daemon=True).start()


def _serve_client(forwarder: "Forwarder", client: socket.socket, room: threading.Semaphore) -> None:
    try:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(STRANGER_SECONDS)
        with client, client.makefile("rb") as incoming:
            while forwarder.answer(client, incoming):
                pass
    except (OSError, HTTPException):  # either side broke off: the other one sees that too
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
        self._idle: list[HTTPConnection] = []

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
            _pass_on(response, client)
        except BaseException:
            connection.close()
            raise
        if not response.will_close:
            self._idle.append(connection)
        return True

    # --- the API's side ---

    def connect_early(self) -> None:
        """Have a connection ready for claude's first request, which takes as long to come."""
        try:
            self._idle.append(self._connect())
        except (OSError, HTTPException):  # the first request finds the same, and reports it
            pass

    def _ask(self, request: Request) -> Answer:
        """Send a request to the API and return the connection and its answer, of which the body is still to come."""
        try:
            connection, response = self._ask_idle(request) or self._ask_over(self._connect(), request)
        except (OSError, HTTPException) as error:
            raise RefusedError(502, "api_error", f"{self._api.base_url}: {_describe(error)}") from None
        if 300 <= response.status < 400:
            connection.close()
            place = str(response.headers.get("location", "no address"))[:200]
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
            except (OSError, HTTPException):
                continue
        return None

    def _ask_over(self, connection: HTTPConnection, request: Request) -> Answer:
        try:
            target = self._url.path.rstrip("/") + request.target
            connection.putrequest("POST", target, skip_accept_encoding=True)
            for name, value in request.headers:
                connection.putheader(name, value)
            connection.putheader(self._header, self._prefix + self._api.credential)
            connection.putheader("content-length", str(len(request.body)))
            connection.endheaders(request.body)
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def _connect(self) -> HTTPConnection:
        """Return a new connection, with TLS verified where the address says so."""
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "http":
            connection = HTTPConnection(host, port, timeout=CONNECT_SECONDS)
        else:
            connection = self._connect_tls(host, port)
        connection.auto_open = 0  # a request over a connection that was closed fails
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sock.settimeout(SILENT_SECONDS)
        return connection

    @cached_property
    def _tls(self) -> "ssl.SSLContext":
        """The rule for certificates: the system's authorities, or those of chat.ca_file alone."""
        import ssl  # an API on this machine needs none

        try:
            return ssl.create_default_context(cafile=self._api.ca_file or None)
        except OSError as error:
            raise OSError(f"chat.ca_file can't be used: {error}") from None

    def _connect_tls(self, host: str, port: int | None) -> HTTPConnection:
        context = self._tls
        if not self._api.https_proxy:
            return HTTPSConnection(host, port, timeout=CONNECT_SECONDS, context=context)
        proxy = urlsplit(self._api.https_proxy)
        connection = HTTPSConnection(proxy.hostname or "", proxy.port or 80, timeout=CONNECT_SECONDS, context=context)
        headers = {}
        if proxy.username is not None:
            user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
            headers["Proxy-Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
        connection.set_tunnel(host, port or 443, headers)
        return connection


def _pass_on(response: HTTPResponse, client: socket.socket) -> None:
    """Send the API's answer as it comes. Raises OSError or HTTPException when either side breaks off."""
    length = left = response.length
    _send_head(client, response.status, response.reason, list(passed_on(response.headers)), length, "keep-alive")
    while piece := response.read1(PIECE):
        if length is None:
            client.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        else:
            left = (left or 0) - len(piece)
            client.sendall(piece)
    if length is None:
        client.sendall(b"0\r\n\r\n")
    elif left:
        raise ConnectionAbortedError("in the middle of an answer")
    response.read()  # frees its connection


def _send_head(
    client: socket.socket, status: int, reason: str, headers: list[tuple[str, str]], length: int | None, keep: str
) -> None:
    body = ("transfer-encoding", "chunked") if length is None else ("content-length", str(length))
    lines = [
        f"HTTP/1.1 {status} {reason}",
        *(f"{name}: {value}" for name, value in (*headers, body, ("connection", keep))),
    ]
    client.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))


def _describe(error: Exception) -> str:
    """Return why a connection failed, in the words of the system."""
    certificate = getattr(error, "verify_message", "")
    return f"its certificate is not good: {certificate}" if certificate else str(error) or type(error).__name__
