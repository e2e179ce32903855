"""The client's side of a chat session."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..client import REPEAT_SECONDS, Event, HandlerError, NoAnswer, Signer, new_id, post

# prefix of the id of the turn that checks after an approved job; all clients use the same id, so it is one turn
CHECK = "msg-after-"


@dataclass(frozen=True)
class Past:
    """A conversation so far: its VM, its number of turns, and the prompt and events of the last turn.

    The fields of the last turn are empty if the handler no longer has its events. `is_running` tells whether that turn
    is still running.
    """

    vm: str
    turns: int
    prompt: str = ""
    at: str = ""
    events: tuple[Event, ...] = ()
    is_running: bool = False


class ChatClient:
    """A client's side of one chat session; `turn` is the current turn's id, `cost_usd` the cost of all turns."""

    def __init__(self, signer: Signer, vm: str = "", session: str = "") -> None:
        self.session, self.turn, self.cost_usd = session, "", 0.0
        self._seen, self._request, self._attaches = 0, dict[str, object](), False
        self._signer, self._vm = signer, vm

    def start_turn(self, prompt: str) -> Iterator[Event]:
        """Yield each event of a new turn once, without pings. The last one is `done`.

        Raises HandlerError if the handler refuses, and NoAnswer if it can't be reached for REPEAT_SECONDS.
        """
        return self._start(new_id(), {"prompt": prompt})

    def start_check(self, prompt: str, job: str) -> Iterator[Event]:
        """Yield the events of the read-only turn that checks the VM after a job has ended.

        The turn runs once per job. If another client has started it, that turn's events are yielded.
        """
        return self._start(f"{CHECK}{job}", {"prompt": prompt, "tools": "host"})

    def _start(self, turn: str, fields: Mapping[str, object]) -> Iterator[Event]:
        place = {"vm": self._vm, "session": self.session}
        self._request = {**fields, **{name: value for name, value in place.items() if value}}
        self.turn, self._seen, self._attaches = turn, 0, False
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
                    self.cost_usd += _number(event, "cost_usd")
                    yield event
                    if event["type"] == "done":
                        return
                raise NoAnswer("the stream ended without its last line", sent=True)
            except HandlerError as error:
                if self._attaches or error.error.get("code") != "id-reused" or not self.turn.startswith(CHECK):
                    raise
                self._attaches = True  # another client, such as the page, has started the check with a different prompt
            except NoAnswer as lost:
                lost_at = lost_at or time.monotonic()
                if time.monotonic() - lost_at > (REPEAT_SECONDS if self._seen else 0):
                    raise NoAnswer(str(lost), lost.sent or self._seen > 0, lost.hint) from None
                time.sleep(1)

    def _post(self) -> Iterator[Event]:
        """Attach after the last seen event. If no event was seen, send the turn's request again."""
        if self._seen or self._attaches:
            return self._send(attach=self.turn, after=self._seen)
        return post(self._signer, "/chat", self.turn, self._request)

    def _send(self, **fields: object) -> Iterator[Event]:
        return post(self._signer, "/chat", new_id(), fields)

    def cancel_turn(self) -> None:
        """Ask the handler to stop the turn under way."""
        for _ in self._send(cancel=self.turn):
            pass

    def replay(self) -> Past:
        """Return the conversation so far. If its last turn still runs, follow_turn then yields the rest.

        Raises HandlerError if the handler refuses, and NoAnswer if the replay is incomplete.
        """
        turns, last, events = 0, Event(), list[Event]()
        for event in self._send(session=self.session, replay=True):
            if event["type"] == "turn":
                turns, last, events = turns + 1, event, []
            elif event["type"] == "replayed":
                running = self._continue(event, events)
                count, prompt, at = turns + int(_number(event, "left_out")), last.get("prompt", ""), last.get("at", "")
                return Past(str(event["vm"]), count, str(prompt), str(at), tuple(events), running)
            elif event["type"] != "ping":
                events.append(event)
        raise NoAnswer("the stream ended without its last line", sent=True)

    def _continue(self, replayed: Event, events: list[Event]) -> bool:
        """Take the token, the cost and the running turn from the end of a replay. Return whether one is running.

        The replay's last line says that a turn is running even if it ended during the replay, but its events show the
        end.
        """
        self.session = str(replayed.get("session") or self.session)
        self.cost_usd = _number(replayed, "cost_usd")
        if not replayed.get("turn") or (events and events[-1]["type"] == "done"):
            return False
        self.turn, self._attaches = str(replayed["turn"]), True
        self._seen = int(_number(events[-1], "n")) if events else 0
        return True


def fetch_conversations(signer: Signer) -> list[Event]:
    """Return the caller's conversations, newest first. Raises HandlerError, or NoAnswer if no list arrived."""
    for answer in post(signer, "/chat", new_id(), {"list": True}):
        found = answer.get("sessions")
        if isinstance(found, list):
            return [each for each in found if isinstance(each, dict)]
    raise NoAnswer("the answer has no list of conversations", sent=True)


def _number(event: Event, name: str) -> float:
    value = event.get(name)
    return value if isinstance(value, int | float) else 0
