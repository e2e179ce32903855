"""POST /echo/arrived and POST /echo: report which parts of a request arrived, for `breakglass doctor`.

A proxy in between can drop headers, delay lines, and cut or limit requests. Only the handler sees which parts arrive.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..agents.pve.words import VERSION
from ..auth.challenge import check_time
from ..auth.signing import GRAFANA_SIGNATURE, GRAFANA_TIMESTAMP, Caller
from ..base import audit
from ..base.budget import HOLD_SECONDS
from ..base.errors import BadRequest, TooLarge, TooSlow
from ..proxmox.outcome import Message
from ..service import Service
from .admission import check_permission
from .bodies import is_utf8, strict_json
from .gate import BODY_SECONDS, SignedRequest
from .replies import NDJSON, error_reply, stream_reply

HEADERS = (  # headers that a proxy must pass on unchanged
    *("webhook-id", "webhook-timestamp", "webhook-signature", "authorization"),
    *(GRAFANA_SIGNATURE, GRAFANA_TIMESTAMP),
    *("accept", "prefer", "content-type"),
    "x-forwarded-for",  # a sign of a proxy, which [server] proxies should name
)
MOST_BYTES = 1024 * 1024  # as large as the body of an alert may be
_FIELDS = ("seconds", "padding", "challenge", "to")
# identifies this process, so that two addresses of one handler are not taken for two handlers
_INSTANCE = secrets.token_hex(8)


async def arrived(request: Request) -> Response:
    """Answer with digests of the body and of each known header. Needs no authentication and reveals nothing else."""
    body, size = hashlib.sha256(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                body.update(part)
                size += len(part)
                if size > MOST_BYTES:
                    return error_reply(TooLarge(f"the body is longer than {MOST_BYTES} bytes", "send less"))
    except TimeoutError:
        return error_reply(TooSlow(f"the body did not arrive in {BODY_SECONDS:g} s", "send it again"))
    headers = {name: request.headers.getlist(name) for name in HEADERS if name in request.headers}
    digests = {name: hashlib.sha256(", ".join(values).encode()).hexdigest() for name, values in headers.items()}
    return JSONResponse({"headers": digests, "body": body.hexdigest(), "bytes": size})


async def echo(request: Request) -> Response:
    """Answer a signed request after the number of seconds that it names. As lines, send one per second."""
    service: Service = request.state.service
    arrival: SignedRequest = request.state.signed
    signed, fields = arrival.signed, _fields(arrival.body)
    service.config.check_recipient(fields.get("to", ""))
    check_time(signed, fields.get("challenge", ""), int(time.time()), service.config.session_secrets)
    # a caller may do this until its key expires, so one of its verbs, whichever it is, is checked
    check_permission(signed.caller, min(signed.caller.allow), None, time.time())
    seconds = min(int(fields.get("seconds") or 0), HOLD_SECONDS)
    audit.request(arrival.began, "done", signed.caller.name, "echo", msg_id=signed.id)
    if NDJSON in request.headers.get("accept", ""):
        return stream_reply(_lines(service, signed.caller, seconds))
    await _pause(service, seconds)
    return JSONResponse(_answer(service, signed.caller))


def _fields(data: bytes) -> Mapping[str, str]:
    fields = strict_json(data)
    for name, value in fields.items():
        if name not in _FIELDS or not isinstance(value, str) or not is_utf8(value):
            raise BadRequest("a field is unknown or not text", f"use {', '.join(_FIELDS)}, in quotes")
    seconds = str(fields.get("seconds") or "0")
    if not (seconds.isascii() and seconds.isdecimal() and len(seconds) < 4):
        raise BadRequest('"seconds" is not a number', f"use 0 to {HOLD_SECONDS}, in quotes")
    return {name: str(value) for name, value in fields.items()}


async def _lines(service: Service, caller: Caller, seconds: int) -> AsyncIterator[Message]:
    for _ in range(seconds):
        yield {"type": "ping"}
        await _pause(service, 1)
    yield {"type": "result", **_answer(service, caller)}


async def _pause(service: Service, seconds: float) -> None:
    """Wait, but not beyond the time when the handler stops."""
    try:
        async with asyncio.timeout(seconds):
            await service.stopping.wait()
    except TimeoutError:
        pass


def _answer(service: Service, caller: Caller) -> Message:
    return {
        "caller": caller.name,
        "version": VERSION,
        "time": time.time(),
        "instance": _INSTANCE,
        "config": service.config.digest,
    }
