"""A verb under way. It goes on whoever watches: a client that leaves interrupts nothing.

The watchers read a list that only grows, so a slow one holds up neither the verb nor another watcher. What is in it is
bounded by the host agent (1 MiB of output a job).
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from .. import audit
from ..config.model import Vm
from ..verbs import VERBS
from .outcome import NOTHING_SENT, Answer, Asked, Lost, Message, Unreached, answer_from_trailer, answer_without_trailer
from .request import PveRequest
from .wire import verb_line

PING_SECONDS = 8.0  # at least every 10 s of silence; proxies cut silent streams
JSON_SECONDS = 90.0  # a JSON answer comes before proxies cut at 100 s


class HostClient(Protocol):
    """What a run needs of pve.Host."""

    async def read(self, line: str) -> list[Message]: ...

    def run(self, line: str) -> AsyncIterator[Message]: ...


class SentIds:
    """The ids under which this process may have sent something, and how often, the newest 10,000.

    A browser whose connection breaks before the answer's first byte sends the request once more by itself and tells
    nobody: whoever asked then knows of one sending only. This is a hint and no memory: the host is that.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._ids: dict[str, int] = {}

    def add(self, msg_id: str) -> None:
        """Note that something is about to be sent."""
        self._ids[msg_id] = self._ids.get(msg_id, 0) + 1
        if len(self._ids) > self._most:
            del self._ids[next(iter(self._ids))]

    def take_back(self, msg_id: str) -> bool:
        """Note that nothing was sent after all; tell whether nothing ever was."""
        left = self._ids.pop(msg_id, 1) - 1
        if left > 0:
            self._ids[msg_id] = left
        return left <= 0


class Run:
    """One request's verb: its messages so far and, at the end, its answer."""

    def __init__(
        self, client: HostClient, asked: Asked, request: PveRequest, vm: Vm, began: float, sent: SentIds
    ) -> None:
        self.asked = asked
        self._sent = sent
        self.messages: list[Message] = []
        self.answer: Answer | None = None
        self._client = client
        self._request = request
        self._vm = vm
        self._began = began
        self._news = asyncio.Event()
        self.task = asyncio.create_task(self._go())

    async def _go(self) -> None:
        if VERBS[self.asked.verb].mutating:
            self._sent.add(self.asked.id)
        try:
            self.answer = await self._answered()
        except Unreached as trouble:
            self.answer = self._not_reached(trouble)
        except Lost as loss:
            self.answer = self._unknown(f'{loss}; "{self.asked.verb}" may have run')
        except Exception as error:  # a defect of ours: say that it may have happened
            self.answer = self._unknown(
                f'this handler failed ({type(error).__name__}); "{self.asked.verb}" may have run'
            )
            raise
        finally:
            self._notify()
            if self.answer is not None:
                asked = self.asked
                audit.request(self._began, self.answer.outcome, asked.by, asked.verb, asked.vm, asked.id)

    async def _answered(self) -> Answer:
        line = verb_line(self._request, self._vm, self.asked.id, self.asked.by)
        if VERBS[self.asked.verb].is_job:
            async for message in self._client.run(line):
                self._take(message)
        else:
            for message in await self._client.read(line):
                self._take(message)
        trailer = self.messages.pop()
        answer = answer_from_trailer(self.asked, trailer, self._text("stdout"), self._text("stderr"))
        return await self._with_jobs(answer, trailer) if self.asked.verb == "history" else answer

    async def _with_jobs(self, answer: Answer, trailer: Message) -> Answer:
        """Add what `history` adds: the list, and the one job that was asked for (null when it is not known)."""
        body = {**answer.body, "jobs": trailer.get("jobs", [])}
        if self._request.job:
            told = await self._client.read(f"job vm={self._vm.vmid} id={self._request.job}")
            body["job"] = told[-1].get("whole_job")
        return Answer(body, answer.status)

    def _take(self, message: Message) -> None:
        self.messages.append(message)
        self._notify()

    def _notify(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _text(self, stream: str) -> str:
        return "".join(str(m["text"]) for m in self.messages if m.get("stream") == stream)

    @property
    def _stage(self) -> Message | None:
        """The newest stage that the host told."""
        return next((message for message in reversed(self.messages) if message["type"] == "stage"), None)

    def _not_reached(self, trouble: Unreached) -> Answer:
        if VERBS[self.asked.verb].mutating and not self._sent.take_back(self.asked.id):
            cause = trouble.message.removesuffix(NOTHING_SENT)
            return self._unknown(f'{cause}; "{self.asked.verb}" was sent before and may have run')
        return answer_without_trailer(self.asked, "unreached", trouble.code, trouble.message, trouble.hint)

    def _unknown(self, sentence: str) -> Answer:
        hint = "send the same id again to attach to it"
        return answer_without_trailer(
            self.asked, "unknown", "lost", sentence, hint, stdout=self._text("stdout"), stage=self._stage
        )

    def partial_answer(self) -> Answer:
        """Return the answer for somebody who can't wait: running when the host has spoken, else unknown."""
        if self.answer is not None:
            return self.answer
        if not self.messages:
            return self._unknown(f'no answer yet; "{self.asked.verb}" may have run')
        sentence = f"{self.asked.verb} is still running on the host; send the same id again"
        return answer_without_trailer(
            self.asked, "running", "running", sentence, stdout=self._text("stdout"), stage=self._stage
        )

    async def _wait_for_update(self, stopping: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._news, stopping)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def finished(self, stopping: asyncio.Event, seconds: float = JSON_SECONDS) -> Answer:
        """Return the answer, or what there is after `seconds` or when the handler is stopping."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self.answer is None and not stopping.is_set() and loop.time() < until:
            await self._wait_for_update(stopping, until - loop.time())
        return self.partial_answer()

    async def stream(self, stopping: asyncio.Event) -> AsyncIterator[Message]:
        """Yield the run as it goes; the last message, always, is the result."""
        yield {"type": "accepted", "id": self.asked.id, "verb": self.asked.verb, "vm": self.asked.vm}
        seen = 0
        while True:
            for message in self.messages[seen:]:
                seen += 1
                yield message
            if self.answer is not None or stopping.is_set():
                break
            before = seen
            await self._wait_for_update(stopping, PING_SECONDS)
            if len(self.messages) == before and self.answer is None and not stopping.is_set():
                yield {"type": "ping"}
        yield {"type": "result", **self.partial_answer().body}
