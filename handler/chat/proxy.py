"""A turn's proxy to the model's API. Only this program has the credential. It adds it to claude's requests.

Standard library and h11 only, because it runs isolated, in its own sandbox. Its argument is the descriptor of a Unix
socket that listens; one line of JSON on its standard input says how to reach the API. `model_requests.py` decides which
requests are passed on. The answer is returned unchanged, whatever its status, so claude sees the API's own errors and
limits. If the API does not answer, claude gets a 502 in the API's format, and it tries again as after every 5xx.
"""

import asyncio
import contextlib
import ctypes
import json
import socket
import ssl
import sys
from collections.abc import Iterator
from functools import cached_property
from urllib.parse import urlsplit

import h11

from ..base.reasons import reason
from ..config.model_api import API_KEY, ModelApi
from .model_connection import Connection, UnansweredError, connect
from .model_requests import PATHS, Headers, find_refusal, passed_on

CONNECTIONS = 8  # the most connections from claude at the same time
BODY_BYTES = 32 * 1024 * 1024  # the API does not accept longer bodies
_PR_SET_DUMPABLE = 4
# Headers of an answer that the proxy drops, because they concern one connection only, or a session of the API, which
# must not outlive a request.
_OF_ONE_END = frozenset(
    b"connection keep-alive proxy-authenticate proxy-connection set-cookie te trailer transfer-encoding upgrade".split()
)


class RefusedError(Exception):
    """Raised if the proxy itself must answer a request. Has a status, a type and a sentence for claude."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        self.status, self.kind, self.message = status, kind, message


class Proxy:
    """Passes claude's requests to the API and the API's answers to claude."""

    def __init__(self, api: ModelApi, authorities: str) -> None:
        self._api, self._url, self._authorities = api, urlsplit(api.base_url), authorities
        is_key = api.variable == API_KEY
        credential = ("x-api-key", api.credential) if is_key else ("authorization", f"Bearer {api.credential}")
        self._own = [(name.encode(), value.encode()) for name, value in (("host", self._url.netloc), credential)]
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(CONNECTIONS)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection from claude until it ends."""
        client = Connection(h11.SERVER, reader, writer)
        # If one side closes its connection, the other side is closed too. For a HEAD request, h11 refuses to send an
        # error with a body.
        with contextlib.closing(client), contextlib.suppress(OSError, h11.LocalProtocolError):
            async with self._room:
                while await self._serve_request(client):
                    pass

    async def connect_early(self) -> None:
        """Open a connection for claude's first request while claude is still starting."""
        with contextlib.suppress(OSError):  # the first request will fail with the same error and report it
            self._idle.append(await self._connect())

    async def _serve_request(self, client: Connection) -> bool:
        """Answer one request; return whether another may follow on this connection."""
        try:
            request, body = await _read_request(client)
            api, response = await self._ask(request, body)
        except (RefusedError, h11.RemoteProtocolError) as refused:
            await _refuse(client, refused)
            return False
        try:
            await _pass_on(api, response, client)
        except BaseException:
            api.close()
            raise
        if api.is_ready_again():
            self._idle.append(api)
        else:
            api.close()
        return client.is_ready_again()

    async def _ask(self, request: h11.Request, body: bytes) -> tuple[Connection, h11.Response]:
        """Send a request to the API; return the connection and its answer, whose body has not been read yet."""
        target = self._url.path.rstrip("/").encode() + request.target
        headers = [*self._own, (b"content-length", b"%d" % len(body)), *passed_on(request.headers)]
        asked = h11.Request(method="POST", target=target, headers=headers), h11.Data(data=body), h11.EndOfMessage()
        try:
            return await self._ask_idle(*asked) or await self._ask_new(*asked)
        except OSError as error:
            raise RefusedError(502, "api_error", f"{self._api.base_url}: {_describe(error)}") from None

    async def _ask_idle(self, *asked: h11.Event) -> tuple[Connection, h11.Response] | None:
        """Ask over a connection that is open already; return None if there is none or the API has closed it."""
        with contextlib.suppress(UnansweredError):
            return (api := self._idle.pop(), await api.ask(*asked)) if self._idle else None
        return None

    async def _ask_new(self, *asked: h11.Event) -> tuple[Connection, h11.Response]:
        api = await self._connect()
        return api, await api.ask(*asked)

    async def _connect(self) -> Connection:
        """Return a new connection, with verified TLS if the address is https. Raises OSError."""
        tls = self._tls if self._url.scheme == "https" else None
        return await connect(
            self._url.hostname or "", self._url.port or (443 if tls else 80), tls, self._api.https_proxy
        )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """The TLS context, which trusts the system's authorities, or only those of chat.ca_file."""
        try:
            return ssl.create_default_context(cadata=self._authorities or None)
        except ssl.SSLError as error:
            raise OSError(f"chat.ca_file can't be used: {reason(error)}") from None


async def _read_request(client: Connection) -> tuple[h11.Request, bytes]:
    """Read and return a whole request. An answer that is sent before its end could be lost.

    Raises RefusedError for a request that may not be passed on, and OSError at the end of the connection.
    """
    request, body = await client.receive(), bytearray()
    if not isinstance(request, h11.Request):
        raise ConnectionResetError
    while isinstance(event := await client.receive(), h11.Data):
        body += event.data
        if len(body) > BODY_BYTES:
            raise RefusedError(413, "request_too_large", f"the body is longer than {BODY_BYTES} bytes")
    if request.method != b"POST" or request.target not in PATHS:
        raise RefusedError(404, "not_found_error", "only requests for messages are passed on")
    if why := find_refusal(body):
        raise RefusedError(400, "invalid_request_error", why)
    return request, bytes(body)


async def _refuse(client: Connection, why: RefusedError | h11.RemoteProtocolError) -> None:
    if isinstance(why, h11.RemoteProtocolError):
        why = RefusedError(400, "invalid_request_error", f"this is not a request of HTTP/1.1: {why}")
    error = {"type": "error", "error": {"type": why.kind, "message": why.message}}
    body = json.dumps(error).encode()
    headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
    await client.send(h11.Response(status_code=why.status, headers=headers), h11.Data(data=body), h11.EndOfMessage())


async def _pass_on(api: Connection, response: h11.Response, client: Connection) -> None:
    """Send the API's answer as it comes. Raises OSError if either side closes its connection."""
    headers = list(_of_the_message(response.headers))
    await client.send(h11.Response(status_code=response.status_code, headers=headers, reason=response.reason))
    try:
        while isinstance(event := await api.receive(), h11.Data):
            await client.send(event)
    except h11.RemoteProtocolError as error:
        raise OSError from error
    await client.send(h11.EndOfMessage())


def _of_the_message(headers: Headers) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers of an answer that are about the message, not about the connection."""
    nominated = {each.strip().lower() for name, value in headers if name == b"connection" for each in value.split(b",")}
    return ((name, value) for name, value in headers if name not in _OF_ONE_END | nominated)


def _describe(error: Exception) -> str:
    """Return why a connection failed, in the words of the system."""
    certificate = getattr(error, "verify_message", "")
    return f"its certificate is not valid: {certificate}" if certificate else reason(error)


async def _run(listener: socket.socket, proxy: Proxy) -> None:
    # asyncio.start_unix_server would look at the socket's path
    server = await asyncio.start_server(proxy.serve, sock=listener)
    await asyncio.gather(server.serve_forever(), proxy.connect_early())


def main() -> None:
    """Serve until this process is ended. Its memory can't be read by other processes of its user."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0)
    given = json.loads(sys.stdin.buffer.readline())
    listener = socket.socket(fileno=int(sys.argv[1]))
    asyncio.run(_run(listener, Proxy(ModelApi(**given["api"]), given["authorities"])))


if __name__ == "__main__":
    main()
