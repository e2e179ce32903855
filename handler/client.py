"""Client of a handler: signs a request, sends it, and repeats it until its outcome is known."""

import http.client
import json
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from .auth.signing import sign
from .base.reasons import reason
from .proxmox.request import VerbFields
from .proxmox.wire import Replay

REPEAT_SECONDS = 60.0
SILENCE_SECONDS = 30.0  # the handler sends something at least every 10 s
_UNKNOWN_AUTHORITY = range(18, 22)  # OpenSSL's X509_V_ERR codes

Event = dict[str, object]


class NoAnswer(Exception):
    """Raised if a stream ends without its last line. `sent` says whether the request may have arrived."""

    def __init__(self, message: str, sent: bool, hint: str = "") -> None:
        super().__init__(message)
        self.sent = sent
        self.hint = hint


class HandlerError(Exception):
    """Raised if the handler answers with an error object; `error` is that object.

    `sent` tells whether an earlier attempt with the same id may have reached the host.
    """

    sent = False

    def __init__(self, error: Mapping[str, object]) -> None:
        super().__init__(str(error.get("message")))
        self.error = error
        self.challenge = error.get("challenge")
        self.hint = str(error.get("hint", ""))


@dataclass(frozen=True)
class Signer:
    """A caller's signing key and the URL of its handler."""

    url: str
    key: bytes

    def headers(self, msg_id: str, body: bytes) -> dict[str, str]:
        """Return the three headers that sign a body now."""
        now = int(time.time())
        signature = sign(self.key, msg_id, now, body)
        return {"webhook-id": msg_id, "webhook-timestamp": str(now), "webhook-signature": signature}

    def request(self, msg_id: str, fields: Mapping[str, object], accept: str) -> tuple[bytes, dict[str, str]]:
        """Return the body and the headers of a request, signed now. `to` makes it valid at this URL only."""
        body = json.dumps({**fields, "to": self.url}).encode()
        return body, {"content-type": "application/json", "accept": accept, **self.headers(msg_id, body)}


@dataclass(frozen=True)
class VerbCall(VerbFields):
    """A verb to run on a VM; empty fields are not sent."""

    vm: str = ""

    def fields(self) -> dict[str, object]:
        """Return the request body."""
        return {name: value for name, value in vars(self).items() if value}


def new_id() -> str:
    """Return a new id for a request."""
    return f"msg_{secrets.token_hex(12)}"


# --- one request ---


def post(signer: Signer, path: str, msg_id: str, fields: Mapping[str, object]) -> Iterator[Event]:
    """Sign and send one request; yield the lines of its answer.

    If the clock is wrong and the handler answers with a challenge, the request is sent again with that challenge.
    Raises HandlerError for an error object, and NoAnswer if the answer does not come from a handler.
    """
    try:
        yield from _post_once(signer, path, msg_id, fields)
    except HandlerError as error:
        if not error.challenge:
            raise
        yield from _post_once(signer, path, msg_id, {**fields, "challenge": error.challenge})


def _post_once(signer: Signer, path: str, msg_id: str, fields: Mapping[str, object]) -> Iterator[Event]:
    body, headers = signer.request(msg_id, fields, "application/x-ndjson")
    connection = _connect(signer.url)
    try:
        with send(connection, signer.url, "POST", path, body, headers) as response:
            if "ndjson" in response.headers.get("content-type", ""):
                yield from map(_event, response)
            else:
                yield _plain_answer(response.status, response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAnswer(reason(error), sent=True) from None
    finally:
        connection.close()


def connect(url: str, seconds: float) -> http.client.HTTPConnection:
    """Return an open connection. Each step on it may take `seconds`. Raises OSError if it can't be opened."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=seconds)
    connection.connect()
    return connection


def send(
    connection: http.client.HTTPConnection, url: str, method: str, path: str, body: bytes, headers: Mapping[str, str]
) -> http.client.HTTPResponse:
    """Send one request to a path below a handler's URL, and return the head of its answer."""
    connection.request(method, urlsplit(url).path.rstrip("/") + path, body, headers)
    return connection.getresponse()


def _event(line: bytes) -> Event:
    event = json.loads(line)
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise ValueError("the answer contains a line that breakglass did not send")
    return event


def _plain_answer(status: int, body: bytes) -> Event:
    """Return an answer of one JSON object as a result line. Raises HandlerError for an error object."""
    try:
        answer = json.loads(body)
        error = answer.get("error")
    except (ValueError, AttributeError):
        raise ValueError(f"the answer (HTTP {status}) is not from breakglass; check for a proxy in between") from None
    if isinstance(error, dict):
        raise HandlerError(error)
    return {**answer, "type": "result"}


def _connect(url: str) -> http.client.HTTPConnection:
    """Return an open connection. Raises NoAnswer, with the reason and an instruction, if it can't be opened."""
    try:
        return connect(url, SILENCE_SECONDS)
    except (OSError, http.client.HTTPException, ValueError) as error:
        message, hint = _connect_failure(error, str(urlsplit(url).hostname))
        raise NoAnswer(message, sent=False, hint=hint) from None


def _connect_failure(error: Exception, host: str) -> tuple[str, str]:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused", "check that the handler is running and listens there"
    if isinstance(error, socket.gaierror):
        return (
            f'the name "{host}" can\'t be resolved: {error.strerror}',
            "check its spelling and DNS, or use an address",
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "for a private CA, set SSL_CERT_FILE to the file with its certificate"
        hint = hint if error.verify_code in _UNKNOWN_AUTHORITY else "to learn how to correct it: breakglass doctor"
        return f"its certificate is not trusted: {error.verify_message}", hint
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}", "if the handler has no TLS there, use http://"
    if isinstance(error, TimeoutError):
        return f"no connection within {SILENCE_SECONDS:g} s", "check the address and the firewalls in between"
    return reason(error), "check the address and this machine's network"


# --- a verb ---


def call(signer: Signer, msg_id: str, request: VerbCall, on_message: Callable[[Event], None]) -> Event:
    """Run a verb and return its result; `on_message` gets each output line and each stage once, and what is tried.

    If the answer is lost, or is `unknown` or `running`, the same id is sent again, for REPEAT_SECONDS after the first
    loss. The verb acts only once, however often it is sent. Raises HandlerError for an error, and NoAnswer if no answer
    came.
    """
    until, sent, replay = 0.0, False, Replay()
    fields = request.fields()
    while True:
        replay.begin()
        try:
            result = _result(post(signer, "/pve", msg_id, fields), replay, on_message)
        except NoAnswer as lost:
            sent = sent or lost.sent
            until = until or time.monotonic() + REPEAT_SECONDS
            if not sent or time.monotonic() > until:
                raise NoAnswer(str(lost), sent, lost.hint) from None
        except HandlerError as error:
            error.sent = sent
            raise
        else:
            sent = True
            until = until or time.monotonic() + REPEAT_SECONDS
            if result["outcome"] not in ("unknown", "running") or time.monotonic() > until:
                return result
        fields = request.fields() | {"again": True}
        time.sleep(1)


def _result(messages: Iterator[Event], replay: Replay, on_message: Callable[[Event], None]) -> Event:
    """Return the result line. A line of an unknown type, which a newer handler can send, is skipped."""
    tried: object = None
    for message in messages:
        if message["type"] == "result":
            if not isinstance(message.get("outcome"), str):
                break
            return message
        if message.get("trying", tried) != tried:
            tried = message["trying"]
            on_message(message)
        elif message["type"] in ("output", "stage") and replay.is_new(message):
            on_message(message)
    raise NoAnswer("the answer ended before its result", sent=True)
