"""The other side of the contract: sign a request, send it, and send it again until its outcome is known."""

import http.client
import json
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from ..auth.signing import sign
from ..proxmox.wire import Replay

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
        self.challenge = error.get("challenge")
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


def call(signer: Signer, msg_id: str, body: bytes, heard: Callable[[dict[str, object]], None]) -> dict[str, object]:
    """Run a verb and return its result; each line of its output, and each stage, goes to `heard`, once.

    When the answer is lost, or is `unknown` or `running`, the same id is sent again, for AGAIN_SECONDS after the first
    loss: the verb acts once however often it is sent. Raises Told for an error, NoAnswer when it stays lost, and
    ValueError for a URL that is none.
    """
    parts = urlsplit(signer.url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(f'not a URL: "{signer.url}"')
    until, sent, replay = 0.0, False, Replay()
    while True:
        replay.begin()
        try:
            result = _Answer(signer, msg_id, body).result(lambda each: heard(each) if replay.is_new(each) else None)
        except NoAnswer as lost:
            sent = sent or lost.sent
            until = until or time.monotonic() + AGAIN_SECONDS
            if not sent or time.monotonic() > until:
                raise NoAnswer(str(lost), sent) from None
        else:
            sent = True
            until = until or time.monotonic() + AGAIN_SECONDS
            if result["outcome"] not in ("unknown", "running") or time.monotonic() > until:
                return result
        time.sleep(1)


class _Answer:
    """One sending and what came back."""

    def __init__(self, signer: Signer, msg_id: str, body: bytes) -> None:
        self._sent = False
        self._messages = self._read(signer, msg_id, body)

    def result(self, heard: Callable[[dict[str, object]], None]) -> dict[str, object]:
        """Return the result; raise NoAnswer when the stream ends before, or is not ours. A line of a type that is not
        known is passed over: a newer handler may have more to say."""
        while True:
            try:
                message = next(self._messages)
                kind = message["type"]
            except StopIteration:
                raise NoAnswer("the answer ended without its result", self._sent) from None
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
                raise NoAnswer(str(error) or type(error).__name__, self._sent) from None
            if kind == "result":
                return message
            if kind in ("output", "stage"):
                heard(message)

    def _read(self, signer: Signer, msg_id: str, body: bytes) -> Iterator[dict[str, object]]:
        """Yield what comes back. The answer to a wrong clock is a challenge: signed in, that is judged instead."""
        try:
            yield from self._read_once(signer, msg_id, body)
        except Told as told:
            if not told.challenge:
                raise
            answered = json.dumps({**json.loads(body), "challenge": told.challenge}).encode()
            yield from self._read_once(signer, msg_id, answered)

    def _read_once(self, signer: Signer, msg_id: str, body: bytes) -> Iterator[dict[str, object]]:
        parts = urlsplit(signer.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=SILENCE_SECONDS)
        try:
            connection.connect()
            self._sent = True  # from here on it may have got there
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
    """Return the answer object of a plain JSON answer (a rejected verb); raise Told for an error that is ours."""
    try:
        answer = json.loads(body)
        error = answer.get("error")
    except (ValueError, AttributeError):
        raise ValueError(f"HTTP {status} that is not from breakglass; is something in between?") from None
    if isinstance(error, dict):
        raise Told(error)
    return {**answer, "type": "result"}
