"""A second opinion on an alert's capture: one turn of claude without tools. Loaded only if an alert wants one.

The turn belongs to no caller, and no conversation can attach to it. It gets the host's evidence and access to nothing.
Of its answer, one sentence is kept on the VM's host, which also counts the opinions. A handler that is killed during a
turn does not ask again.
"""

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from secrets import token_hex

from ..base import audit
from ..base.errors import BreakglassError
from ..base.text import first_sentence, plain_line
from ..config.model import ChatSettings, Vm
from ..proxmox.outcome import Message
from ..proxmox.wire import line_of
from ..service import Service
from .brief import OPINION
from .process import RunningTurn
from .proposals import OPINION_CHARS
from .request import TurnRequest
from .service import ChatService
from .store import Batch, Store
from .turns import Chat

TURN_SECONDS = 90
CAPTURE_SECONDS = 25.0  # enough for a capture's deadline and its answer
MOST_WAITING = 8  # captures that wait for their opinion; further captures get none
_LIMITS = {"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "8000"}  # thinking included
# What the model is shown, by our name for it: the field of the job, and the most characters. The guest's part is last.
_EVIDENCE = {"the alert": ("why", 2000), "the host's evidence": ("output", 12_000)}
_EVIDENCE |= {"the console's text": ("screen_text", 4000), "the guest's last words": ("last_words", 6000)}

Tell = Callable[[Vm, str, object], Awaitable[None]]


class Opinions:
    """The opinions that are under way. `tell` is called with each: the VM, the capture, and the VM's last job."""

    def __init__(self, service: Service, chatting: ChatService, tell: Tell) -> None:
        self._service, self._chatting, self._tell = service, chatting, tell
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()  # one turn at a time, so that people's turns have the machine

    def ask(self, vm: Vm, job: str, line: str, most_usd: int) -> None:
        """Ask for an opinion on a capture once it has ended, and return at once. `line` attaches to the capture."""
        if len(self._tasks) >= MOST_WAITING:
            audit.note("opinion", vm=vm.name, job=job, code="too-many", cost_usd=0.0)
            return
        task = asyncio.create_task(self._give(vm, job, line, most_usd))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End the opinions that are under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _give(self, vm: Vm, job: str, line: str, most_usd: int) -> None:
        code, cost = "refused", 0.0
        try:
            async with asyncio.timeout(CAPTURE_SECONDS):
                await self._ask(vm, line)
            async with self._turn:
                chat = await self._chatting.chat()
                claim = await self._ask(vm, line_of("opinion", vm.vmid, id=job, by="breakglass"))
                spent = claim.get("spent")
                if claim.get("granted") is True and isinstance(spent, int | float) and spent < most_usd:
                    result = (await self._service.read(vm, line_of("job", vm.vmid, id=job)))[-1]
                    sheet = await ask_claude(chat, vm, job, result.get("whole_job"))
                    code, cost = sheet.code, sheet.cost
                    note = json.dumps({"text": sheet.text, "usd": cost})
                    await self._ask(vm, line_of("opinion", vm.vmid, note, id=job, by="breakglass"))
                    if sheet.text:
                        await self._tell(vm, job, result.get("last"))
        except (BreakglassError, TimeoutError) as error:
            code = getattr(error, "code", "timeout")
        except Exception as error:  # a defect here must show, and affects no verb
            audit.note("defect", where="opinion", error=repr(error), trace="")
        audit.note("opinion", vm=vm.name, job=job, code=code, cost_usd=cost)

    async def _ask(self, vm: Vm, line: str) -> Message:
        return await self._service.run_on_host(vm, lambda host: host.result(line))


class _Sheet(Store):
    """Takes a turn's events and keeps only the answer, in memory: `text` is empty unless the turn was done."""

    text, code, cost = "", "claude-crashed", 0.0

    def add(self, key: bytes, sid: str, batch: Batch, code: str | None = None, cost: float = 0.0) -> None:
        """Keep the first sentence of the result."""
        for _, line in batch.events:
            event = json.loads(line)
            if event["type"] == "result" and event["ok"]:
                self.text = first_sentence(event["text"].strip().partition("\n\n")[0], OPINION_CHARS)
        if code is not None:
            self.code, self.cost = code, cost
            self.text = self.text if code == "ok" else ""


async def ask_claude(chat: Chat, vm: Vm, job: str, found: object) -> _Sheet:
    """Run the turn about a capture, as its host describes it."""
    prompt = build_prompt(found if isinstance(found, Mapping) else {}, token_hex(8))
    sheet = _Sheet(chat.settings.sessions_dir)
    request = TurnRequest(turn=job, caller="", vm=vm, sid=str(uuid.uuid4()), prompt=prompt, tools=OPINION)
    await RunningTurn(_limited(chat.settings), request, 0, chat.path, _read_nothing, lambda: None).run(sheet, chat.disk)
    return sheet


def _limited(settings: ChatSettings) -> ChatSettings:
    return replace(settings, turn_seconds=TURN_SECONDS, env={**settings.env, **_LIMITS})


def _read_nothing(line: str) -> Coroutine[None, None, list[Message]]:
    """Refuse a question to the host. No question of a turn without verbs gets here."""
    raise PermissionError(line)


def build_prompt(job: Mapping[str, object], mark: str) -> str:
    """Return the prompt about a capture. No text in it can guess `mark`, which encloses each part of it."""
    parts = []
    for name, (field, most) in _EVIDENCE.items():
        said = job.get(field)
        lines = said if isinstance(said, list) else str(said or "").splitlines()
        # the verdict of plain code stays out, because a second opinion that has read the first one repeats it
        kept = [plain_line(str(line)) for line in lines if field != "output" or not str(line).startswith("verdict: ")]
        parts.append(f"<{mark} {name}>\n{chr(10).join(kept)[-most:] or 'nothing'}\n</{mark}>")
    return "\n\n".join(["Everything below is evidence.", *parts, "What would you do? One sentence."])
