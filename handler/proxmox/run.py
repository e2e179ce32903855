"""Runs one request's verb, from start to answer. The run continues when the client disconnects.

Clients read a list that only grows, so a slow client delays neither the verb nor another client. `wire.Replay` bounds
the list, whatever the host sends.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from ..base import audit
from ..base.budget import TRYING_SECONDS, silent_seconds
from ..base.counts import StageClock
from ..base.cures import read_states, read_verdicts
from ..base.errors import Lost, Unreached
from ..base.findings import say_silent, say_trying
from .host import HostConnection
from .outcome import Answer, Message, answer_from_trailer, answer_without_trailer
from .places import Destination
from .request import SentIds, VerbRequest
from .wire import line_of, verb_line

PING_SECONDS = 8.0  # below 10 s, because proxies cut streams that are silent for longer
ATTACH = "send the same id again to attach to it"
JSON_SECONDS = 45.0  # below 60 s, at which nginx and load balancers cut a connection without an answer

Find = Callable[[str, bool, bool], Awaitable[Destination]]  # see places.py; takes msg_id, changes, is_repeated


class Run:
    """One request's verb: its messages so far and, at the end, its answer.

    `find` finds the host. `began` is the start of the request as a time.monotonic().
    """

    def __init__(self, find: Find, request: VerbRequest, sent: SentIds, began: float) -> None:
        self.answer: Answer | None = None
        self._find = find
        self._found: Destination | None = None
        self._is_repeated = request.rules.mutating and (request.again or request.id in sent)
        self._request = request
        self._sent = sent
        self._began = began
        self._messages: list[Message] = []
        self._clock = StageClock(request.verb)
        self._silence = asyncio.timeout(None if request.rules.mutating else silent_seconds(request.rules.deadline))
        self._update = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        request = self._request
        if request.rules.mutating:
            self._sent.add(request.id)
        try:
            async with self._silence:
                self.answer = await self._ask_host(await self._find_host())
        except Unreached as error:
            self.answer = self._unreached(error)
        except (Lost, TimeoutError) as error:
            self.answer = self._lost(error if isinstance(error, Lost) else Lost("no answer in time"))
        except Exception as error:  # a defect of the handler, so the verb may have run
            self.answer = self._unknown(f"Breakglass itself failed ({type(error).__name__})")
            raise
        finally:
            self._notify()
            if self.answer is not None:
                audit.add(verdict=self.answer.body["verdict"])
                outcome = self.answer.outcome
                audit.request(self._began, outcome, request.caller.name, request.verb, request.vm.name, request.id)

    async def _find_host(self) -> Destination:
        """Return where the request goes; raise Lost if the id may have gone to another host."""
        request = self._request
        known = request.id if request.rules.mutating else request.job
        found = self._found = await self._find(known, request.rules.mutating, self._is_repeated)
        found = self._found = found.serving(request.verb)
        self._request = replace(request, place=(found.away or found.host).host)
        audit.add(host=found.host.host.name)
        return found

    async def _ask_host(self, found: Destination) -> Answer:
        host, line, vm = found.host, verb_line(self._request), self._request.vm
        if self._request.rules.is_job:
            async for message in host.run(line, asked=vm):
                self._add(message)
        else:
            for message in await host.read(line):
                self._add(message)
        trailer = read_verdicts(self._messages.pop(), vm.vmid, host.host.name, vm.proxmox_name)
        trailer = await self._prove_stop(found, trailer)
        stdout, stderr = self._output("stdout"), self._output("stderr")
        answer = answer_from_trailer(self._request, trailer, stdout, stderr, host.warnings)
        if self._request.verb == "states":
            states = read_states(trailer, self._request.seen, host.host.name)
            return replace(answer, body={**answer.body, "states": states})
        trouble = found.trouble if host is not found.away else ""
        answer = replace(answer, body=found.nodes.add_to(answer.body, trouble))
        return await self._with_jobs(answer, trailer, host) if self._request.verb == "history" else answer

    async def _prove_stop(self, found: Destination, trailer: Message) -> Message:
        """Return a result. A `stop` becomes `failed` if another host has a process of the VM."""
        if self._request.verb == "stop" and trailer["outcome"] == "done" and not found.is_only:
            with suppress(Unreached, Lost):
                now = await self._find("", False, False)
                return now.nodes.prove_stop(trailer, found.host.host.name)
        return trailer

    async def _with_jobs(self, answer: Answer, trailer: Message, host: HostConnection) -> Answer:
        """Add `jobs` (null if the host did not read them) and the requested `job` to an answer of `history`.

        `job` is null if the host does not know the job, and left out if the host did not say.
        """
        body = {**answer.body, "jobs": trailer.get("jobs")}
        if self._request.job:
            messages = await host.read(line_of("job", self._request.vm.vmid, id=self._request.job))
            result = read_verdicts(messages[-1], self._request.vm.vmid, host.host.name)
            verdict = result.get("verdict")
            is_unknown = isinstance(verdict, dict) and verdict.get("code") == "job-unknown"
            if is_unknown or "whole_job" in result:
                body["job"] = result.get("whole_job")
        return Answer(body, answer.status)

    def _add(self, message: Message) -> None:
        self._silence.reschedule(None)
        self._messages.append(message)
        self._clock.see(message)
        self._notify()

    def _notify(self) -> None:
        update, self._update = self._update, asyncio.Event()
        update.set()

    def _output(self, stream: str) -> str:
        return "".join(str(m["text"]) for m in self._messages if m.get("stream") == stream)

    def _unreached(self, error: Unreached) -> Answer:
        request = self._request
        is_first = not request.rules.mutating or self._sent.take_back(request.id)
        found = self._found  # the host that has the id, or the only host without an answer, which may have it
        if not is_first or (found and found.has_id) or (self._is_repeated and not (found and found.is_only)):
            return self._unknown(error.reason, "was sent before and may have run")
        if found is not None and found.away is not None:
            error = Unreached(error.cause, f"the VM is on node {found.away.node}: {error.reason}", error.hint)
        answer = answer_without_trailer(request, "unreached", error.cause, error.message, error.hint)
        return replace(answer, body=found.nodes.add_by_hand(answer.body)) if found else answer

    def _lost(self, error: Lost) -> Answer:
        """Return the answer for a lost one: `unreached` if the host agent sent nothing and the verb only reads."""
        host = self._found.host if self._found and not (self._messages or self._request.rules.mutating) else None
        if host is None or host.health() != "agent-silent":
            return self._unknown(error.message, hint=error.hint or ATTACH)
        return answer_without_trailer(self._request, "unreached", *say_silent(host.host.name))

    def _unknown(self, reason: str, effect: str = "may have run", hint: str = ATTACH) -> Answer:
        sentence = f'{reason}; "{self._request.verb}" {effect}'
        return self._answer("unknown", "answer-lost", sentence, hint)

    def _answer(self, outcome: str, code: str, sentence: str, *evidence: str) -> Answer:
        stdout = self._output("stdout")
        stage = next((message for message in reversed(self._messages) if message["type"] == "stage"), None)
        return answer_without_trailer(self._request, outcome, code, sentence, *evidence, stdout=stdout, stage=stage)

    def partial_answer(self) -> Answer:
        """Return the answer so far: `unknown` before the host's first message, `running` after it."""
        if self.answer is not None:
            return self.answer
        if not self._messages:
            return self._unknown("no answer yet")
        sentence = f"{self._request.verb} is still running on the host; send the same id again"
        return self._answer("running", "job-running", sentence)

    async def _wait_for_update(self, stopping: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.ensure_future(event.wait()) for event in (self._update, stopping)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def finished(self, stopping: asyncio.Event, seconds: float | None = None) -> Answer:
        """Return the answer. After `seconds` (JSON_SECONDS) or when the handler stops, return a partial one.

        Before the host's first message, the partial answer would be `unknown`, so it is returned only after
        JSON_SECONDS or later.
        """
        loop = asyncio.get_running_loop()
        began, limit = loop.time(), JSON_SECONDS if seconds is None else seconds
        while self.answer is None and not stopping.is_set():
            left = began + (limit if self._messages else max(limit, JSON_SECONDS)) - loop.time()
            if left <= 0:
                break
            await self._wait_for_update(stopping, left)
        return self.partial_answer()

    def _trouble(self) -> Message:
        """Return since when the host that the request waits for has been out of reach, if it is."""
        host = self._found.host if self._found and not self._messages else None
        return say_trying(host.host.name, host.health(), host.since) if host else {}

    async def stream(self, stopping: asyncio.Event) -> AsyncIterator[Message]:
        """Yield the messages as they come. The last message is always the result."""
        request = self._request
        yield {"type": "accepted", "id": request.id, "verb": request.verb, "vm": request.vm.name}
        passed = 0
        while True:
            for message in self._messages[passed:]:
                passed += 1
                yield message
            if self.answer is not None or stopping.is_set():
                break
            before = passed
            await self._wait_for_update(stopping, PING_SECONDS if before else TRYING_SECONDS)
            if len(self._messages) == before and self.answer is None and not stopping.is_set():
                yield {"type": "ping"} | self._trouble()
        yield {"type": "result", **self.partial_answer().body}
