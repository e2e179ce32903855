"""Sends the messages of a running handler: at least once each, and never in the way of a verb or a verdict.

A capture's message is due until its host has the mark `told`. The handler that began the capture sends it. Every other
one looks from time to time for captures that ended without a message, because the first may have been killed.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from ..auth.signing import ID, SIGNATURE
from ..base import audit
from ..base.errors import Lost, Unreached
from ..base.verbs import CAPTURE_ID, DRILL_ID
from ..config.model import Vm
from ..config.notify import VERDICT, Recipient
from ..proxmox.outcome import Answer
from ..proxmox.outcome import Message as HostMessage
from ..proxmox.request import VerbRequest
from ..proxmox.wire import line_of
from ..service import Service
from .messages import OPINION, outcome_message, ready_message, summary_message, verdict_message
from .outbox import Outbox, remember

ENDED_SECONDS = 30.0  # a handler sends the message about its capture at most this long after the capture's end
LOOK_AFTER = 45.0  # seconds after a start or a repeated alert; longer than ENDED_SECONDS
ROUND_SECONDS = 300.0
READY_SECONDS = 30.0
MOST_MESSAGES = 5  # of one round; any further messages become one
CAPTURE_SECONDS = 25.0  # enough for a capture's deadline and its answer
_TOLD, _NOT_TOLD = "told", "not-told"
_IN_VAIN = ("rejected", "busy", "id-reused", "running")  # outcomes of verbs that did nothing


class Notifier:
    """The messages that are under way, each from its event until it was sent."""

    def __init__(self, service: Service, reasons: Callable[[], Sequence[str]]) -> None:
        self.outbox = Outbox(lambda: service.config.notify)
        self._service, self._reasons = service, reasons
        self._tasks: set[asyncio.Task[object]] = set()
        self._under_way: set[str] = set()  # captures whose message this handler is about to send
        self._looks: set[str] = set()  # VMs at whose captures this handler looks soon
        self._seen: dict[tuple[str, str], None] = {}
        self._lost: tuple[str, int] = ("", 0)  # the key of the message "not ready", and how many looks found that
        self._spawn(self._look_from_time_to_time())

    def _spawn(self, work: Coroutine[None, None, object]) -> asyncio.Task[object]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            audit.note("defect", where="notify", error=repr(error), trace="")

    async def stop(self) -> None:
        """End the messages that are under way. The host knows which captures wait for a message."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- verdicts ---

    def follow(self, vm: Vm, lines: Mapping[str, str], is_repeated: bool) -> asyncio.Task[object] | None:
        """Send the verdict of each capture that an alert has begun: `lines` attach to the captures, by job.

        If the alert was sent before, or by another handler, look later whether a message is missing.
        """
        if not self._receivers(vm):
            return None
        if is_repeated and vm.name not in self._looks:
            self._looks.add(vm.name)
            self._spawn(self._look_later(vm))
        new = {job: line for job, line in lines.items() if job not in self._under_way}
        return self._spawn(self._follow_all(vm, new)) if new else None

    async def _follow_all(self, vm: Vm, lines: Mapping[str, str]) -> None:
        await asyncio.gather(*(self._follow(vm, job, line) for job, line in lines.items()))

    async def _follow(self, vm: Vm, job: str, line: str) -> None:
        try:
            async with asyncio.timeout(CAPTURE_SECONDS):
                await self._ask(vm, line)
        except (Lost, Unreached, TimeoutError) as error:  # a later look finds the capture
            audit.note("notify-late", vm=vm.name, job=job, why=str(error) or "no result in time")
        else:
            await self._tell_verdict(vm, job)

    async def _tell_verdict(self, vm: Vm, job: str) -> None:
        """Send the message about a capture that has ended, unless it is marked, and mark it."""
        if job in self._under_way:
            return
        self._under_way.add(job)
        try:
            result = (await self._service.read(vm, line_of("job", vm.vmid, id=job)))[-1]
            found = result.get("whole_job")
            if isinstance(found, dict) and found.get("told") != _TOLD:
                message = verdict_message(vm.name, job, found, self._service.config.urls)
                await self._mark(vm, job, await self.outbox.tell(message))
        except (Lost, Unreached) as error:
            audit.note("notify-late", vm=vm.name, job=job, why=str(error))
        finally:
            self._under_way.discard(job)

    async def tell_opinion(self, vm: Vm, job: str, last: object) -> None:
        """Send a capture's message again with its second opinion, unless a verb's message came after the job `last`."""
        result = (await self._service.read(vm, line_of("job", vm.vmid, id=job)))[-1]
        found = result.get("whole_job")
        if isinstance(found, dict) and found.get("opinion") and result.get("last") == last:
            message = verdict_message(vm.name, job, found, self._service.config.urls)
            self._spawn(self.outbox.tell(replace(message, stage=OPINION, is_urgent=False)))

    async def _mark(self, vm: Vm, job: str, is_told: bool) -> None:
        await self._ask(vm, line_of("told", vm.vmid, _TOLD if is_told else _NOT_TOLD, id=job, by="breakglass"))

    async def _ask(self, vm: Vm, line: str) -> HostMessage:
        return await self._service.run_on_host(vm, lambda host: host.result(line))

    def _receivers(self, vm: Vm) -> tuple[Recipient, ...]:
        return tuple(each for each in self._service.config.notify if each.wants(VERDICT, vm.name))

    # --- what another handler, or this one before its start, has begun ---

    async def _look_from_time_to_time(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(READY_SECONDS if looks else LOOK_AFTER)
            if looks % round(ROUND_SECONDS / READY_SECONDS) == 0:
                rules = self._service.config.alerts
                vms = {rule.vm for rule in rules}
                self._spawn(self._look([vm for vm in self._service.config.vms.values() if vm.name in vms]))
            looks += 1
            self._see_ready()

    async def _look_later(self, vm: Vm) -> None:
        await asyncio.sleep(LOOK_AFTER)
        self._looks.discard(vm.name)
        await self._look([vm])

    async def _look(self, vms: Sequence[Vm]) -> None:
        """Send what no handler has sent: a message for each capture, or one for all if there are more than five."""
        found: dict[tuple[Recipient, ...], dict[str, Vm]] = {}
        for vm in filter(self._receivers, vms):
            with suppress(Lost, Unreached):  # /ready says so already
                jobs = (await self._ask(vm, line_of("told", vm.vmid))).get("untold")
                ids = [str(each["id"]) for each in jobs if _is_due(each)] if isinstance(jobs, list) else []
                of_these = found.setdefault(self._receivers(vm), {})  # so a receiver's summary has only its VMs
                of_these |= {job: vm for job in ids if job not in self._under_way}
        await asyncio.gather(*map(self._tell_found, found.values()))

    async def _tell_found(self, found: Mapping[str, Vm]) -> None:
        if len(found) <= MOST_MESSAGES:
            await asyncio.gather(*(self._tell_verdict(vm, job) for job, vm in found.items()))
            return
        self._under_way |= found.keys()
        try:
            summary = summary_message([(vm.name, job) for job, vm in found.items()], self._service.config.urls)
            is_told = await self.outbox.tell(summary)
            for job, vm in found.items():
                with suppress(Lost, Unreached):
                    await self._mark(vm, job, is_told)
        finally:
            self._under_way -= found.keys()

    # --- verbs, and who has seen a capture ---

    def see_verb(self, request: VerbRequest, answer: Answer | None) -> None:
        """Send the outcome of a verb that could change power; there is none if the handler ended it."""
        is_good_drill = request.proves == "drill" and answer is not None and answer.outcome == "done"
        if answer is not None and answer.outcome not in _IN_VAIN and not is_good_drill:
            self._spawn(self._tell_outcome(request, answer.body))

    async def _tell_outcome(self, request: VerbRequest, body: Mapping[str, object]) -> None:
        key, urls = "", self._service.config.urls
        is_drill = request.proves == "drill"
        message = outcome_message(request.vm.name, body, request.reason, "", is_drill, urls)
        if not any(map(message.wanted_by, self._service.config.notify)):
            return
        try:
            async with asyncio.timeout(CAPTURE_SECONDS):
                newest = str((await self._ask(request.vm, line_of("told", request.vm.vmid))).get("newest"))
                key = newest if newest.startswith(CAPTURE_ID) and ID.fullmatch(newest) and not is_drill else ""
        except (Lost, Unreached, TimeoutError):  # without an answer, this message replaces no other
            pass
        await self.outbox.tell(outcome_message(request.vm.name, body, request.reason, key, is_drill, urls))

    def see_reader(self, request: VerbRequest) -> None:
        """Have the host note that a person has opened an alert's capture, once for each of the newest 1,000.

        A caller with a bearer token is a program, so it does not count.
        """
        if request.caller.auth_method != SIGNATURE:
            return
        key = (request.job, request.caller.name)
        if not request.job.startswith(CAPTURE_ID) or request.job.startswith(DRILL_ID) or key in self._seen:
            return
        remember(self._seen, key)
        self._spawn(self._note_seen(request))

    async def _note_seen(self, request: VerbRequest) -> None:
        line = line_of("seen", request.vm.vmid, id=request.job, by=request.caller.name)
        try:
            await self._ask(request.vm, line)
        except (Lost, Unreached):
            self._seen.pop((request.job, request.caller.name), None)

    # --- the handler itself ---

    def _see_ready(self) -> None:
        """Send a message if the handler was not ready at two looks, and another with the same key once it is ready."""
        key, looks = self._lost
        reasons = self._reasons()
        if not reasons:
            self._lost = ("", 0)
            if looks > 1:
                self._spawn(self.outbox.tell(ready_message(key, (), self._service.config.urls)))
        else:
            self._lost = (key or f"ready-{time.time_ns():x}", looks + 1)
            if looks == 1:
                self._spawn(self.outbox.tell(ready_message(key, reasons, self._service.config.urls)))


def _is_due(job: object) -> bool:
    """Tell whether another handler would have sent the message about a capture by now. A host may say anything."""
    if not isinstance(job, dict) or not isinstance(job.get("ended"), int | float):
        return False
    return job["ended"] >= ENDED_SECONDS and ID.fullmatch(str(job.get("id"))) is not None
