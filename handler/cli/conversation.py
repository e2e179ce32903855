"""The client's side of a chat session."""

import time
from collections.abc import Iterator

from ..client import REPEAT_SECONDS, Event, NoAnswer, Signer, new_id, post


class Conversation:
    """A client's side of one chat session; `turn` is the id of the turn under way."""

    def __init__(self, signer: Signer, vm: str = "", session: str = "") -> None:
        self.session, self.turn, self._seen = session, "", 0
        self._request: dict[str, object] = {}
        self._signer, self._vm = signer, vm

    def start_turn(self, prompt: str) -> Iterator[Event]:
        """Yield the events of a new turn except pings, each once; the last is `done`.

        Raises HandlerError if the handler refuses, NoAnswer if it can't be reached for REPEAT_SECONDS.
        """
        fields = {"prompt": prompt, "vm": self._vm, "session": self.session}
        self._request = {name: value for name, value in fields.items() if value}
        self.turn, self._seen = new_id(), 0
        return self.follow_turn()

    def follow_turn(self) -> Iterator[Event]:
        """Yield the remaining events of the turn under way; attach again after a lost connection."""
        lost_at = 0.0
        while True:
            try:
                for event in self._post():
                    lost_at, number = 0.0, event.get("n")
                    if event["type"] == "ping" or not isinstance(number, int) or number <= self._seen:
                        continue
                    self._seen = number
                    self.session = str(event.get("session", self.session))
                    yield event
                    if event["type"] == "done":
                        return
                raise NoAnswer("the stream ended without its last line", sent=True)
            except NoAnswer as lost:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > (REPEAT_SECONDS if self._seen else 0):
                    raise NoAnswer(str(lost), lost.sent or self._seen > 0, lost.hint) from None
                time.sleep(1)

    def _post(self) -> Iterator[Event]:
        """Attach after the last event that was seen; if none was, send the turn's own request again."""
        if self._seen:
            return post(self._signer, "/chat", new_id(), {"attach": self.turn, "after": self._seen, **self._place})
        return post(self._signer, "/chat", self.turn, self._request)

    @property
    def _place(self) -> dict[str, str]:
        """What tells a handler with another sessions.dir that the turn is not there."""
        return {"session": self.session} if self.session else {}

    def cancel_turn(self) -> None:
        """Ask the handler to stop the turn under way."""
        for _ in post(self._signer, "/chat", new_id(), {"cancel": self.turn, **self._place}):
            pass
