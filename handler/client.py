"""The other side of the contract: sign a request, send it, and send it again until its outcome is known."""

import http.client
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from .signing import sign

AGAIN_SECONDS = 60.0
SILENCE_SECONDS = 30.0  # the handler speaks at least every 10 s


class NoAnswer(Exception):
    """The stream ended without its result line; `sent` tells whether the request may have got there."""

    def __init__(self, message: str, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class Told(Exception):
    """The handler answered with an error instead of running a verb."""

    def __init__(self, error: dict[str, object]) -> None:
        super().__init__(str(error.get("message")))
        self.hint = str(error.get("hint", ""))
        self.reached = error.get("reached")


@dataclass(frozen=True)
class Signer:
    """One caller's key and where its requests go."""

    url: str
    key: bytes

    def headers(self, msg_id: str, body: bytes) -> dict[str, str]:
        """Return the three headers that sign a body now."""
        now = int(time.time())
        signature = sign(self.key, msg_id, now, body)
        return {"webhook-id": msg_id, "webhook-timestamp": str(now), "webhook-signature": signature}


def new_id() -> str:
    return f"msg_{secrets.token_hex(12)}"


def call(signer: Signer, body: bytes, heard: Callable[[dict[str, object]], None]) -> dict[str, object]:
    """Run a verb and return its result; each line of its output goes to `heard`.

    When the answer is lost, the same id is sent again for AGAIN_SECONDS: the verb acts once however often it is sent.
    Raises Told for an error and NoAnswer when it stays unknown.
    """
    msg_id, until, sent = new_id(), time.monotonic() + AGAIN_SECONDS, False
    while True:
        try:
            for message in _lines(signer, msg_id, body):
                sent = True
                if message["type"] == "result":
                    return message
                heard(message)
            raise NoAnswer("the answer ended without its result", True)
        except (OSError, http.client.HTTPException, NoAnswer) as error:
            sent = sent or not isinstance(error, ConnectionRefusedError)
            if not sent or time.monotonic() > until:
                raise NoAnswer(f"{signer.url}: {error}", sent) from None
            time.sleep(1)


def _lines(signer: Signer, msg_id: str, body: bytes) -> Iterator[dict[str, object]]:
    parts = urlsplit(signer.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=SILENCE_SECONDS)
    try:
        accept = {"content-type": "application/json", "accept": "application/x-ndjson"}
        headers = {**accept, **signer.headers(msg_id, body)}
        connection.request("POST", f"{parts.path.rstrip('/')}/pve", body, headers)
        response = connection.getresponse()
        if "ndjson" not in response.headers.get("content-type", ""):
            yield _told(response.status, response.read())
            return
        for line in response:
            yield json.loads(line)
    finally:
        connection.close()


def _told(status: int, body: bytes) -> dict[str, object]:
    """Return the answer object of a plain JSON answer (a rejected verb); raise Told for an error."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {"error": {"message": f"HTTP {status}, and not from breakglass", "hint": "is something in between?"}}
    if "error" in answer:
        raise Told(answer["error"])
    return {**answer, "type": "result"}
