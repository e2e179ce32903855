"""Answers claude's `pve`: the handler reads from the VM's host for claude, and changes nothing there."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence

from ..agents.pve.words import MUTATING, READ_ONLY
from ..auth.signing import ID
from ..base.errors import Lost, Unreached
from .job import encode_line
from .output import Misbehavior
from .proposals import Read

AT_ONCE, MOST, TOO_MANY = 16, 1000, 10_000  # for one turn, because a command that waits for the VM sends many
CHARACTERS = 512  # of a question
TEXT_CHARACTERS = 128 * 1024  # of one answer, so that its JSON fits into one line
_USAGE, _FAILED = 2, 255  # exit codes of a shell command and of ssh
_JOB = re.compile(r"id=[A-Za-z0-9_.:@+-]{1,128}", re.ASCII)
_OPTIONS = {"forensics": " fresh=60"}  # a capture of the last minute need not be repeated

Message = Mapping[str, object]


def request_line(line: str, vmid: int, verbs: Sequence[str]) -> str | None:
    """Return the line for the host. None unless claude's line is exactly one of `verbs`, or `job` with an id."""
    verb, *options = line.split() or [""]
    is_good = len(options) == 1 and bool(_JOB.fullmatch(options[0])) if verb == "job" else not options
    if verb not in verbs or not is_good or len(line) > CHARACTERS:
        return None
    return f"{verb} vm={vmid}{_OPTIONS.get(verb, '')}{''.join(f' {each}' for each in options)}"


def render_answer(messages: Sequence[Message]) -> tuple[int, str]:
    """Return the exit code and the text that ssh would have shown, without pictures."""
    text = "".join(str(each["text"]) for each in messages if each["type"] == "output")
    text = re.sub(r"(?m)^#breakglass ", " #breakglass ", text)
    last = _without_pictures({**messages[-1], "type": None})
    trailer = f"#breakglass {json.dumps(last)}\n"[:TEXT_CHARACTERS]
    code = last.get("exit_code")
    return (code if isinstance(code, int) else _FAILED), text[: TEXT_CHARACTERS - len(trailer)] + trailer


def _without_pictures(table: Message) -> dict[str, object]:
    """Return an object without its pictures and empty fields."""
    kept = {name: value for name, value in table.items() if value is not None and not name.endswith("_png")}
    return {name: _without_pictures(value) if isinstance(value, dict) else value for name, value in kept.items()}


class PveReads:
    """The questions of one turn. `send` sends the turn a line; `drain` returns once most lines are read.

    A question stays open until then, so a turn that does not read its answers can't fill the memory.
    """

    def __init__(
        self,
        read: Read,
        vmid: int,
        verbs: Sequence[str],
        send: Callable[[bytes], None],
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        self._read, self._vmid, self._verbs, self._send, self._drain = read, vmid, verbs, send, drain
        self.last = ""  # the newest job that claude can know of, on whose result a proposal is based
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0

    def begin(self, number: int, line: str) -> None:
        """Begin to answer a question. Raises Misbehavior if there are too many questions."""
        self._count += 1
        if self._count > TOO_MANY:
            raise Misbehavior(f"it asked the host more than {TOO_MANY} times")
        if self._count > MOST or len(self._tasks) >= AT_ONCE:
            why = f"{AT_ONCE} questions are open already; wait until one is answered"
            why = f"{MOST} questions were asked, and a turn may ask no more" if self._count > MOST else why
            self._answer(number, _FAILED, f"{why}\n")
            return
        task = asyncio.create_task(self._ask(number, line))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Stop answering."""
        for task in self._tasks:
            task.cancel()

    async def _ask(self, number: int, line: str) -> None:
        wanted = request_line(line, self._vmid, self._verbs)
        if wanted is None:
            usage = " | ".join("job id=ID" if verb == "job" else verb for verb in self._verbs)
            self._answer(number, _USAGE, f"usage: pve {usage}\n")
        elif (verb := wanted.split()[0]) in MUTATING:
            self._answer(number, *await self._refuse(verb))
        else:
            self._answer(number, *await self._ask_host(wanted))
        await self._drain()

    async def _refuse(self, verb: str) -> tuple[int, str]:
        """Return the refusal that becomes a proposal. Without a known last job of the VM, none can be made."""
        text = "" if self.last else (await self._ask_host(f"status vm={self._vmid}"))[1]
        if not self.last:
            return _FAILED, f"{verb} can't be proposed now\n{text}"
        return READ_ONLY, f"approval-required: {verb}\n"

    async def _ask_host(self, line: str) -> tuple[int, str]:
        try:
            messages = await self._read(line)
            last = messages[-1].get("last")
            if isinstance(last, str) and (last == "none" or ID.fullmatch(last)):
                self.last = last
            return render_answer(messages)
        except (Unreached, Lost) as error:
            return _FAILED, f"{error.message}; {error.hint}\n"
        except Exception as error:  # a defect fails this answer only, and the turn continues
            return _FAILED, f"the handler failed: {error!r}\n"

    def _answer(self, number: int, code: int, text: str) -> None:
        self._send(encode_line({"pve": number, "exit": code, "text": text}))
