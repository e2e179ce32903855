"""The task of a serving process while a reader answers a reading verb."""

import json
import time
from collections.abc import Iterator

from ..grammar import Request
from ..host.paths import Host
from ..host.vmstate import Facts
from ..jobs.proven import with_proven
from ..jobs.result import Result, Verdict
from ..words import DEADLINE, DEADLINES, FAILED
from .readers import Readers
from .reads import Message, result_message, status_result


class ReadTask:
    """A reading verb that a reader answers; ready when the reader's socket is."""

    def __init__(self, host: Host, request: Request, readers: Readers) -> None:
        self.until = time.monotonic() + DEADLINES[request.verb]
        self.done = False
        self._host = host
        self._request = request
        self._readers = readers
        self._facts: Facts | None = None
        self._buffer = b""
        self._has_answered = False
        self._reader = readers.ask(request)
        self.fd = self._reader.fileno()

    def poll(self, ready: bool) -> Iterator[Message]:
        """Yield the messages that have come since the last call; set `done` after the result."""
        if ready:
            chunk = self._reader.receive()
            self._has_answered = self._has_answered or bool(chunk)
            yield from self._messages(chunk)
            if not chunk and not self._has_answered:
                self._ask_another()
            elif not chunk and not self.done:
                verb = self._request.verb
                verdict = Verdict("agent-failed", f"the process that answers {verb} died", "status")
                yield self._give_up(Result(FAILED, stage=verb, verdict=verdict))
        elif time.monotonic() >= self.until:
            yield self._give_up(self._late_result())

    def _ask_another(self) -> None:
        """Ask a new reader, once, because the idle reader may have been killed during the request."""
        self._has_answered = True
        self._reader.kill()
        self._reader = self._readers.ask(self._request)
        self.fd = self._reader.fileno()

    def _messages(self, chunk: bytes) -> Iterator[Message]:
        *lines, self._buffer = (self._buffer + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            kind = message.pop("type")
            if kind == "facts":
                self._facts = Facts(**message)
            else:
                yield {"type": kind, **message}
            if kind == "result":
                self.done = True
                self._readers.give_back(self._reader)

    def _late_result(self) -> Result:
        if self._request.verb == "status":
            result = status_result(self._host, self._facts or Facts(unread=True), DEADLINE)
            return with_proven(self._host, self._request, result)
        sentence = f"{self._request.verb} was not answered in {DEADLINES[self._request.verb]:g} s"
        return Result(DEADLINE, stage=self._request.verb, verdict=Verdict("deadline", sentence, "status"))

    def _give_up(self, result: Result) -> Message:
        self.done = True
        self._reader.kill()
        return result_message(result)
