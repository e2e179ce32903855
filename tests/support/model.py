"""The stand-in for the Messages API as tests use it. It plays scripts, waits, fails, and keeps its requests.

The newest script in the conversation decides: `FAKE=[step, …]`, in the operator's text or in what a tool returned (this
model believes everything it reads). The step is the number of answers since. Beside what a step says (`answers.py`), it
may have `wait`, a name that a test must `release` before the text continues; or `fail`, for the first `times` tries.
"""

import json
import socket
import struct
import threading
from collections.abc import Mapping
from typing import cast

from breakglass.demo import messages_api as demo
from breakglass.demo.answers import Default, Json, texts

# The values of `fail`; also "mute" (never a byte), "html" (a captive portal), and within the stream "reset" and "cut".
FAILURES: Mapping[object, tuple[int, str, str]] = {
    401: (401, "authentication_error", "invalid x-api-key"),
    404: (404, "not_found_error", "model: no-such-model"),
    429: (429, "rate_limit_error", "This request would exceed your account's rate limit"),
    500: (500, "api_error", "Internal server error"),
    529: (529, "overloaded_error", "Overloaded"),
}


class Asked(demo.Request):
    """One request, for tests to look at."""

    @property
    def place(self) -> tuple[str, int]:
        """The conversation and the position in it, the same for each try. This CLI's retry header always says 0."""
        return self.headers.get("x-claude-code-session-id", ""), len(self.body.get("messages", ()))

    @property
    def said(self) -> str:
        """Every text that the model was shown."""
        return "\n".join(text for message in self.body["messages"] for text, _ in texts(message))


class Model(demo.Model):
    """A listening stand-in that plays scripts. `asked` has its requests."""

    def __init__(self, default: Default = lambda words, number, shown: {"text": "done"}) -> None:
        self.asked: list[Asked] = []
        self.listed: list[Mapping[str, str]] = []  # the headers of each request for the list of models
        self.listing: object = None  # how these requests fail, a value of `fail`
        self.closing = threading.Event()
        self._gates: dict[str, threading.Event] = {}
        self._changing = threading.Lock()
        super().__init__(default, _Handler)

    def next_step(self, messages: list[Json]) -> Json:
        """Return the step of the newest script, or of the default if there is no script."""
        answers = 0
        for message in reversed(messages):
            answers += message["role"] == "assistant"
            for text, _ in reversed(list(texts(message)) if message["role"] == "user" else []):
                if "FAKE=[" in text:
                    script = json.JSONDecoder().raw_decode(text[text.rindex("FAKE=[") + 5 :])[0]
                    step: Json = script[answers] if answers < len(script) else {"text": "done"}
                    return step
        return super().next_step(messages)

    def gate(self, name: str) -> threading.Event:
        with self._changing:
            return self._gates.setdefault(name, threading.Event())

    def release(self, name: str) -> None:
        """Let the answer that waits for `name`, or will wait for it, continue."""
        self.gate(name).set()

    def note(self, request: Asked) -> int:
        """Keep a request. Return how often the same request came before."""
        with self._changing:
            before = sum(earlier.place == request.place for earlier in self.asked)
            self.asked.append(request)
        return before

    def close(self) -> None:
        """Let every answer that waits continue, and stop listening."""
        self.closing.set()
        for name in list(self._gates):
            self.release(name)
        super().close()


class _Handler(demo.Handler):
    """Does the parts of a step that are not words."""

    def answer(self, request: demo.Request) -> None:
        self._before = self._model.note(Asked(request.headers, request.body))
        super().answer(request)

    def list_models(self) -> None:
        """Keep the request. Fail as the test wants, or send the list."""
        self._model.listed.append({name.lower(): value for name, value in self.headers.items()})
        if not self._has_failed(self._model.listing):
            super().list_models()

    def _has_failed(self, failure: object, headers: Mapping[str, str] = {}) -> bool:
        """Fail before the answer in this way; tell whether it is one."""
        if failure in FAILURES:
            self.refuse(*FAILURES[failure], dict(headers))
        elif failure == "mute":
            self._model.closing.wait()
        elif failure == "html":
            self.send_body(200, b"<!doctype html><title>Sign in to the guest network</title>", "text/html")
        else:
            return False
        return True

    @property
    def _model(self) -> Model:
        return cast(Model, self.server.model)

    def reply(self, request: demo.Request, step: Json) -> None:
        """Fail in the way that the step names, or send it."""
        failure = step.get("fail") if self._before < step.get("times", self._before + 1) else None
        self._step, self._failure, self._deltas = step, failure, 0
        headers = {"retry-after": str(step["retry_after"])} if "retry_after" in step else {}
        if self._has_failed(failure, headers):
            return
        if failure is not None and not request.body.get("stream"):
            self._break_off()
        else:
            super().reply(request, step)

    def send_event(self, event: Json) -> None:
        """Send an event. Between a block's first and second delta, do what the step asks for."""
        self._deltas = self._deltas + 1 if event["type"] == "content_block_delta" else 0
        if self._deltas == 2:
            if "wait" in self._step:
                self._model.gate(self._step["wait"]).wait()
            if self._failure is not None:
                self._break_off()
        super().send_event(event)

    def _break_off(self) -> None:
        if self._failure == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionAbortedError(self._failure)  # the server closes the connection
