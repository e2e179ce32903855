"""The other side of POST /chat: one conversation. Where a connection is lost, it attaches again after the last event
that it saw: the turn went on meanwhile."""

import http.client
import json
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from .client import AGAIN_SECONDS, SILENCE_SECONDS, NoAnswer, Signer, Told, new_id

Event = dict[str, object]


class Conversation:
    """What is said with one session; `turn` is the id of the turn under way."""

    def __init__(self, signer: Signer, vm: str = "", session: str = "") -> None:
        parts = urlsplit(signer.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError(f'not a URL: "{signer.url}"')
        self.session, self.turn, self._seen = session, "", 0
        self._begin: dict[str, object] = {}
        self._signer, self._vm = signer, vm

    def say(self, prompt: str) -> Iterator[Event]:
        """Yield the events of one turn, but pings, each once; the last is `done`.

        Raises Told when the handler refuses, NoAnswer when it stays away for AGAIN_SECONDS.
        """
        fields = {"prompt": prompt, "vm": self._vm, "session": self.session}
        self._begin = {name: value for name, value in fields.items() if value}
        self.turn, self._seen = new_id(), 0
        return self.go_on()

    def go_on(self) -> Iterator[Event]:
        """Yield the events of the turn under way that were not seen yet."""
        lost = 0.0
        while True:
            try:
                for event in self._attached():
                    lost, number = 0.0, event.get("n")
                    if event["type"] == "ping" or not isinstance(number, int) or number <= self._seen:
                        continue
                    self._seen = number
                    self.session = str(event.get("session", self.session))
                    yield event
                    if event["type"] == "done":
                        return
                raise NoAnswer("the stream ended without its last line", True)
            except (OSError, http.client.HTTPException, ValueError, KeyError, NoAnswer) as error:
                lost = lost or time.monotonic()
                if time.monotonic() - lost > (AGAIN_SECONDS if self._seen else 0):
                    raise NoAnswer(str(error) or type(error).__name__, self._seen > 0) from None
                time.sleep(1)

    def _attached(self) -> Iterator[Event]:
        """Attach after what was seen; where nothing was, send the very request again, for it may not have got there."""
        if self._seen:
            return self._lines(new_id(), {"attach": self.turn, "after": self._seen})
        return self._lines(self.turn, self._begin)

    def stop(self) -> None:
        """Have the turn under way stopped."""
        for _ in self._lines(new_id(), {"cancel": self.turn}):
            pass

    def _lines(self, msg_id: str, fields: dict[str, object]) -> Iterator[Event]:
        """Yield what comes back. The answer to a wrong clock is a challenge: signed in, that is judged instead."""
        try:
            yield from self._sent(msg_id, fields)
        except Told as told:
            if not told.challenge:
                raise
            yield from self._sent(msg_id, {**fields, "challenge": told.challenge})

    def _sent(self, msg_id: str, fields: dict[str, object]) -> Iterator[Event]:
        parts = urlsplit(self._signer.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.netloc, timeout=SILENCE_SECONDS)
        body = json.dumps(fields).encode()
        try:
            headers = {"content-type": "application/json", **self._signer.headers(msg_id, body)}
            connection.request("POST", f"{parts.path.rstrip('/')}/chat", body, headers)
            response = connection.getresponse()
            if response.status >= 400:
                raise Told(_error(response.status, response.read()))
            for line in response:
                event = json.loads(line)
                yield event if isinstance(event, dict) else {}
        finally:
            connection.close()


def _error(status: int, body: bytes) -> Event:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        error = None
    if not isinstance(error, dict):
        raise ValueError(f"HTTP {status} that is not from breakglass; is something in between?")
    return error
