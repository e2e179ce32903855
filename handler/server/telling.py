"""Tells messages and second opinions what happens. Unless a [[notify]] or an alert wants them, neither is loaded."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..alerts.rules import Capture
from ..auth.signing import ID
from ..base.findings import Finding
from ..base.verbs import CAPTURE_ID, DRILL_ID
from ..chat.service import ChatService
from ..config.model import Config, Vm
from ..config.notify import VERDICT
from ..proxmox.request import VerbRequest
from ..proxmox.run import Run
from ..proxmox.wire import capture_line, line_of
from ..service import Load, Service

if TYPE_CHECKING:
    from ..chat.opinion import Opinions
    from ..notify.notifier import Notifier

FindFaults = Callable[[Service], Sequence[Finding]]
ANSWER_SECONDS = 25.0  # with before_answer, the answer to an alert waits this long for its message


class Telling:
    """Loads `notify` and the opinions once a configuration needs them, and passes on what happens."""

    def __init__(self, service: Service, chatting: ChatService, find_faults: FindFaults) -> None:
        self.notifier: Notifier | None = None
        self.opinions: Opinions | None = None
        self._service, self._chatting, self._find_faults = service, chatting, find_faults

    def use(self, config: Config) -> None:
        """Follow a configuration."""
        if config.notify and self.notifier is None:
            from ..notify.notifier import Notifier

            self.notifier = Notifier(self._service, self._reasons)
        if self.notifier is not None:
            self.notifier.outbox.use(config)
        if self.opinions is None and any(rule.opinion_usd for rule in config.alerts):
            from ..chat.opinion import Opinions

            self.opinions = Opinions(self._service, self._chatting, self._tell_opinion)

    async def _tell_opinion(self, vm: Vm, job: str, last: object) -> None:
        if self.notifier is not None:
            await self.notifier.tell_opinion(vm, job, last)

    async def stop(self) -> None:
        """End the messages and the opinions."""
        if self.opinions is not None:
            await self.opinions.stop()
        if self.notifier is not None:
            await self.notifier.stop()

    def _reasons(self) -> list[str]:
        """Return why the handler is not ready, apart from receivers that can't be reached."""
        faults = self._find_faults(self._service)
        return [fault.sentence for fault in faults if fault.code != "notify-failed"]

    @property
    def faults(self) -> Mapping[str, str]:
        """Return which receivers did not get a message, and why."""
        missed = self.notifier.outbox.missed if self.notifier else {}
        return {receiver.name: why for receiver, why in missed.items()}

    async def see_alert(
        self,
        taken: Mapping[Vm, Sequence[Mapping[str, object]]],
        captures: Mapping[str, Sequence[Capture]],
        caller: str,
    ) -> None:
        """Begin to send the verdicts of an alert's captures. Return at once, unless a receiver has before_answer.

        A second opinion on a VM is asked for beside that, and nothing waits for it.
        """
        if self.notifier is None and self.opinions is None:
            return
        waits = []
        for vm, statuses in taken.items():
            new = {status["job"] for status in statuses if status.get("duplicate") is status.get("suppressed") is False}
            lines = {
                each.job: capture_line(each, vm.vmid, caller).removesuffix(" detach")
                for each in captures[vm.name]
                if each.job in new and not each.job.startswith(DRILL_ID)
            }
            wanted = next((each for each in captures[vm.name] if each.opinion_usd and each.job in lines), None)
            if self.opinions is not None and wanted is not None:
                self.opinions.ask(vm, wanted.job, lines[wanted.job], wanted.opinion_usd)
            if self.notifier is None:
                continue
            # An alert may also attach to the capture of a person or a page, about which no message was sent.
            others = {str(status["job"]) for status in statuses} - {each.job for each in captures[vm.name]}
            lines |= {
                job: line_of("forensics", vm.vmid, id=job, by=caller)
                for job in others
                if ID.fullmatch(job) and not job.startswith(CAPTURE_ID)
            }
            task = self.notifier.follow(vm, lines, is_repeated=len(new) < len(statuses))
            receivers = [each for each in self._service.config.notify if each.wants(VERDICT, vm.name)]
            waits += [task] if task and any(each.before_answer for each in receivers) else []
        if waits:
            due = asyncio.ensure_future(self._service.answers_due.wait())
            told = asyncio.gather(*waits, return_exceptions=True)
            both: list[asyncio.Future[object]] = [asyncio.ensure_future(told), asyncio.ensure_future(due)]
            await asyncio.wait(both, timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            due.cancel()


class TellingService(Service):
    """The running handler, which also has people told of what happens."""

    def __init__(self, config: Config, load: Load, chatting: ChatService, find_faults: FindFaults) -> None:
        self.telling = Telling(self, chatting, find_faults)

        async def follow(config: Config) -> None:
            self.telling.use(config)
            await chatting.use(config)

        super().__init__(config, load, follow, chatting.stop)

    async def stop(self) -> None:
        """End the turns and the messages, and close the connections."""
        await self.telling.stop()
        await super().stop()

    def run(self, request: VerbRequest, began: float) -> Run:
        """Start a verb, and have its end told."""
        run, notifier = super().run(request, began), self.telling.notifier
        if notifier is not None and request.rules.mutating:
            run.task.add_done_callback(lambda _: notifier.see_verb(request, run.answer))
        elif notifier is not None and request.verb == "history":
            notifier.see_reader(request)
        return run
