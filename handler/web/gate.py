"""The ASGI application in front of every route: body limits, deadlines, authentication, security headers.

A request without a valid signature gets a fixed 401 before routing and parsing. That also keeps a flood of bad
signatures cheap.
"""

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from ..alerts.payloads import SENDERS
from ..auth import signing
from ..auth.signing import GRAFANA_SIGNATURE, GRAFANA_TIMESTAMP, Caller, Headers, Signed
from ..base import audit
from ..base.errors import BreakglassError, MethodNotAllowed, NotFound, TooLarge, TooSlow
from ..config.model import Config
from .client_headers import client_address
from .replies import error_reply, with_headers
from .strangers import RefusalQueue

BODY_SECONDS = 10.0
OVERLONG = 4  # a body that is too long is read up to this many times its limit
ALERTS = {f"/alert/{source}": 1024 * 1024 for source in SENDERS}
_SMALL = 16 * 1024
# Each path, and the most bytes of its body.
SIGNED = {"/pve": _SMALL, "/chat": 256 * 1024, "/echo": _SMALL, "/report": _SMALL, **ALERTS}
OPEN = {"/health", "/ready", "/echo/arrived", "/pair"}  # paths of unsigned requests, which are never stored
METRICS = "/metrics"  # accepts only the token of [metrics]
TOKENS_TOO = {"/pve", METRICS, *ALERTS}  # paths that accept a bearer token instead of a signature

_HEADERS = (
    *("webhook-id", "webhook-timestamp", "webhook-signature"),
    *(GRAFANA_SIGNATURE, GRAFANA_TIMESTAMP, "authorization"),
)


@dataclass(frozen=True)
class SignedRequest:
    """An authenticated request, in `request.state.signed`. `began` is its start as a time.monotonic()."""

    signed: Signed
    body: bytes
    began: float


class ClientGone(Exception):
    """The client disconnected before its body was complete."""


class Gate:
    """The ASGI application for the server. Calls `config()` for each request, because a reload replaces it."""

    def __init__(self, app: ASGIApp, config: Callable[[], Config]) -> None:
        self._app = app
        self._config = config
        self._refusals = RefusalQueue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        is_scrape = scope["path"] == METRICS and scope["method"] in ("GET", "HEAD") and bool(self._config().metrics)
        guarded = with_headers(is_scrape or scope["path"] in SIGNED or scope["path"] in OPEN, scope["path"], send)
        if is_scrape:
            return await self._signed(scope, receive, guarded)
        unknown_sender = scope["path"].startswith("/alert/") and scope["path"] not in SIGNED
        # a router's "$" would match before a newline, so such a path is refused
        if unknown_sender or not scope["path"].isprintable():
            missing = NotFound("there is nothing at this address", "see breakglass docs api")
            return await error_reply(missing)(scope, receive, guarded)
        if scope["path"] in SIGNED:
            if scope["method"] == "POST":
                return await self._signed(scope, receive, guarded)
            error = MethodNotAllowed(f"{scope['path']} takes POST only", "see breakglass docs api")
            return await error_reply(error, {"allow": "POST"})(scope, receive, guarded)
        if scope["path"] in OPEN:  # strangers can flood these paths too
            await self._refusals.wait()
        return await self._app(scope, receive, guarded)

    async def _signed(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.monotonic()
        audit.begin(*client_address(scope, self._config().proxies), scope["path"])
        try:
            signed, body = await self._proven(scope, receive)
        except BreakglassError as error:
            await self._refusals.wait()
            await error_reply(error)(scope, receive, send)
            audit.request(began, error.code, why=error.why)
        except ClientGone:
            audit.request(began, "client-gone")
        else:
            audit.add(key=signed.key)
            scope["state"] = {**scope.get("state", {}), "signed": SignedRequest(signed, body, began)}
            await self._app(scope, receive, send)

    async def _proven(self, scope: Scope, receive: Receive) -> tuple[Signed, bytes]:
        """Return the authenticated request and its body.

        A bearer token is checked before the body is read. Its request gets an id and a time from the handler. If no
        signature can be valid, the body is read and dropped, and the request gets the same 401 at the same time.
        """
        path, headers, limit = scope["path"], proving_headers(scope), SIGNED.get(scope["path"], 0)
        if path in TOKENS_TOO and (token := signing.bearer_token(headers)) is not None:
            caller, key = signing.verify_bearer(self._callers(path), token)
            body = await read_body(scope, receive, limit)
            return Signed(caller, f"msg_{secrets.token_hex(12)}", int(time.time()), key), body
        is_grafana = path in ALERTS and GRAFANA_SIGNATURE in headers
        claimed = signing.claimed_grafana_digests(headers) if is_grafana else signing.claimed_digests(headers)
        body = await read_body(scope, receive, limit, is_kept=bool(claimed))
        return (signing.verify_grafana if is_grafana else signing.verify)(self._callers(path), headers, body), body

    def _callers(self, path: str) -> tuple[Caller, ...]:
        return self._config().metrics if path == METRICS else self._config().callers


def proving_headers(scope: Scope) -> Headers:
    """Return the headers used for authentication. Repeated headers are joined, so that they can't be valid."""
    found: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1")
        if name in _HEADERS:
            found[name] = found[name] + "\n" + value.decode("latin-1") if name in found else value.decode("latin-1")
    return found


async def read_body(scope: Scope, receive: Receive, limit: int, is_kept: bool = True) -> bytes:
    """Return the body, empty unless `is_kept`. Raises TooLarge, TooSlow or ClientGone."""
    header = dict(scope["headers"]).get(b"content-length", b"0")
    declared = int(header) if header.isdigit() else 0
    too_large = TooLarge(f"the body has {declared} bytes; the limit is {limit}", "send less")
    if declared > OVERLONG * limit:
        raise too_large
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await _received(receive, limit, is_kept)
    except TimeoutError:
        if declared > limit:  # after a 408, the client would send the request again
            raise too_large from None
        raise TooSlow(f"the body did not arrive in {BODY_SECONDS:g} s", "send it again") from None


async def _received(receive: Receive, limit: int, is_kept: bool) -> bytes:
    """Return the body. Raises TooLarge or ClientGone.

    A body that is a little too long is read to its end and discarded. If the connection closed while the client still
    sends, the client would not see the 413 and would send the body again.
    """
    body, size, more = bytearray(), 0, True
    while more and size <= OVERLONG * limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if is_kept and size <= limit:
            body += part
        del message, part  # frees the memory before the wait for the next message
    if size > limit:
        raise TooLarge(f"the body is longer than {limit} bytes", "send less")
    return bytes(body)
