"""A connection of a turn's proxy to claude or to the model's API. Standard library and h11 only."""

import asyncio
import base64
import socket
import ssl
from urllib.parse import unquote, urlsplit

import h11

CONNECT_SECONDS = 10.0
SILENT_SECONDS = 600.0  # longer than the turn's limit for silence, which ends the turn first
TUNNEL_FAILED = "Tunnel connection failed"  # how http.client words this error
_HEAD_BYTES = _PIECE_BYTES = 64 * 1024


class UnansweredError(OSError):
    """Raised if the API closes a connection before the first byte of an answer."""


class Connection:
    """One end of an HTTP/1.1 connection."""

    def __init__(
        self, role: type[h11.CLIENT] | type[h11.SERVER], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._http = h11.Connection(role, max_incomplete_event_size=_HEAD_BYTES)
        self._reader, self._writer, self.close = reader, writer, writer.close
        self._heard = False  # whether a byte was received after the last sent byte

    async def receive(self) -> object:
        """Return the next part of a message, an event of h11. Raises OSError and h11.RemoteProtocolError."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            async with asyncio.timeout(SILENT_SECONDS):
                data = await self._reader.read(_PIECE_BYTES)
            self._heard = self._heard or bool(data)
            self._http.receive_data(data)
        return event

    async def send(self, *events: h11.Event) -> None:
        """Send parts of a message. Raises OSError."""
        self._heard = False
        self._writer.write(b"".join(self._http.send(event) or b"" for event in events))
        async with asyncio.timeout(SILENT_SECONDS):
            await self._writer.drain()

    async def ask(self, *request: h11.Event) -> h11.Response:
        """Send a request, and return the head of its answer. On failure, closes the connection and raises OSError."""
        try:
            await self.send(*request)
            while not isinstance(event := await self.receive(), h11.Response):
                pass
            return event
        except BaseException as error:
            self.close()
            if isinstance(error, h11.RemoteProtocolError | ConnectionError) and not self._heard:
                raise UnansweredError("the connection ended") from None
            if isinstance(error, h11.RemoteProtocolError):
                raise OSError("the program that answers there does not speak HTTP/1.1") from None
            raise

    def is_ready_again(self) -> bool:
        """Prepare for the next message. Returns False if the connection ends with this message."""
        if (self._http.our_state, self._http.their_state) != (h11.DONE, h11.DONE):
            return False
        self._http.start_next_cycle()
        return True


async def connect(host: str, port: int, tls: ssl.SSLContext | None, proxy: str) -> Connection:
    """Return a TLS connection to the API, through the network's proxy if there is one. Raises OSError."""
    connected = await asyncio.to_thread(open_socket, host, port, proxy if tls else "")
    connected.setblocking(False)
    name, seconds = (host, CONNECT_SECONDS) if tls else (None, None)
    streams = await asyncio.open_connection(
        sock=connected, ssl=tls, server_hostname=name, ssl_handshake_timeout=seconds
    )
    return Connection(h11.CLIENT, *streams)


def open_socket(host: str, port: int, proxy: str) -> socket.socket:
    """Return a connection without TLS, through a tunnel of `proxy` unless that is empty. Raises OSError."""
    if not proxy:
        return socket.create_connection((host, port), CONNECT_SECONDS)
    import http.client  # imported late, because it takes time to load while claude starts

    address = urlsplit(proxy)
    tunnel, headers = http.client.HTTPConnection(address.hostname or "", address.port or 80, CONNECT_SECONDS), {}
    if address.username is not None:
        user = f"{unquote(address.username)}:{unquote(address.password or '')}"
        headers = {"proxy-authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
    tunnel.set_tunnel(host, port, {"host": f"{host}:{port}", **headers})
    try:
        tunnel.connect()
    except http.client.HTTPException:
        raise OSError(f"{TUNNEL_FAILED}: it does not speak HTTP") from None
    connected: socket.socket = tunnel.sock
    return connected
