"""Limits the reads that one caller has under way for a VM. Power verbs are not affected.

Otherwise a script that asks again and again would fill the host with captures. Further requests share the answer of the
newest one under way.
"""

from asyncio import Event
from collections.abc import AsyncIterator
from typing import Protocol

from ..base import audit
from ..base.errors import Unreached
from ..proxmox.outcome import Answer, Message
from ..proxmox.request import VerbRequest
from ..proxmox.run import Run

MOST_READS = 16  # the most reads of one caller, VM and verb at a time

_Key = tuple[str, str, str]


class Answering(Protocol):
    """The part of a run that a route uses: its answer as one object or as lines."""

    async def finished(self, stopping: Event, seconds: float | None = None) -> Answer:
        """Return the answer, or a partial one after `seconds`."""

    def stream(self, stopping: Event) -> AsyncIterator[Message | bytes]:
        """Yield the messages, or their lines, as they come."""


class AttachedRun:
    """Another request's run, whose answer further requests share. Its bytes are encoded only once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._answer: Answer | None = None
        self._line = b""

    async def finished(self, stopping: Event, seconds: float | None = None) -> Answer:
        """Return the run's answer, with `attached` set."""
        return self._attached(await self._run.finished(stopping, seconds))

    def _attached(self, answer: Answer) -> Answer:
        if answer is not self._run.answer:
            return Answer({**answer.body, "attached": True}, answer.status)
        if self._answer is None:
            self._answer = Answer({**answer.body, "attached": True}, answer.status)
        return self._answer

    async def stream(self, stopping: Event) -> AsyncIterator[Message | bytes]:
        """Yield all of the run's messages. The last one is already encoded."""
        async for message in self._run.stream(stopping):
            yield self._last_line() if message["type"] == "result" else message

    def _last_line(self) -> bytes:
        answer = self._attached(self._run.partial_answer())
        if answer is not self._answer:
            return _result_line(answer)
        self._line = self._line or _result_line(answer)
        return self._line


class ReadsUnderWay:
    """The runs of reading verbs without an answer yet, newest last."""

    def __init__(self) -> None:
        self._runs: dict[_Key, dict[Run, VerbRequest]] = {}
        self._shared: dict[Run, AttachedRun] = {}

    def add(self, request: VerbRequest, run: Run) -> Run:
        """Count a run until it ends. Returns the run."""
        key = _key(request)
        self._runs.setdefault(key, {})[run] = request
        run.task.add_done_callback(lambda _: self._forget(key, run))
        return run

    def _forget(self, key: _Key, run: Run) -> None:
        self._shared.pop(run, None)
        del self._runs[key][run]
        if not self._runs[key]:
            del self._runs[key]

    def attach(self, request: VerbRequest, began: float) -> AttachedRun | None:
        """Return the run to share if the caller has MOST_READS, otherwise None; raise Unreached if no run matches."""
        runs = self._runs.get(_key(request), {})
        if len(runs) < MOST_READS:
            return None
        wanted = (request.vm, request.job, request.proves)
        fitting = [run for run, other in runs.items() if (other.vm, other.job, other.proves) == wanted]
        if fitting:
            run = fitting[-1]
            run.task.add_done_callback(lambda _: _record(request, run, began))
            return self._shared.setdefault(run, AttachedRun(run))
        reason = f"{request.caller.name} has {len(runs)} of {request.verb} under way for {request.vm.name} already"
        raise Unreached("too-many-reads", reason, "wait until one of them is answered, then send this again")


def _result_line(answer: Answer) -> bytes:
    return b'{"type":"result",' + answer.encoded[1:] + b"\n"


def _key(request: VerbRequest) -> _Key:
    return request.caller.name, request.vm.name, request.verb


def _record(request: VerbRequest, run: Run, began: float) -> None:
    """Write the attached request's own line of the log."""
    if run.answer is not None:
        audit.add(verdict=run.answer.body["verdict"])
        audit.request(began, run.answer.outcome, request.caller.name, request.verb, request.vm.name, request.id)
