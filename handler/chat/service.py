"""Decides whether chat is enabled, and says why if it is not.

Chat is optional. A fault of chat is reported by `/health` and by a 503 from `/chat`. The verbs are not affected and
never wait for chat.
"""

import asyncio
import contextlib
import os

from ..base import audit
from ..base.findings import Finding, error
from ..base.reasons import reason
from ..config.model import ChatSettings, Config
from .request import ChatDisabled, ChatNotIsolated, SessionsUnwritable

try:
    from .database import Disk
    from .program import RESTART, ask_probe, find_program
    from .turns import Chat
    from .wall import bwrap

    _import_error = ""
except Exception as fault:  # a defect of chat's modules must not stop the verbs
    _import_error = repr(fault)

READY_SECONDS = 10.0
LOOK_SECONDS = 10.0  # between two checks of what a turn needs
PLACE = "BREAKGLASS_CHAT"  # the path at which systemd starts turns, or `off`

_OFF = error("chat", "none", f"chat is disabled at this handler by {PLACE}=off", "use the handler that has chat")
_NONE = error(
    "chat", "none", "chat is not configured", "add [chat] to the configuration; see breakglass docs configuration"
)
_FAULTY = error(
    "chat", "disabled", "chat is disabled: its entry has an error", "correct what breakglass check reports, then reload"
)
_STARTING = error("chat", "starting", "chat is not ready yet", "ask again in a moment")
_WALLS = {"sandbox-missing": "sandbox-missing", "sandbox-refused": "chat-not-isolated"}  # by a probe's code
# these faults do not disable chat, because the turn itself reports them
_SAID_BY_TURNS = ("claude-missing", "sessions-unwritable")


class ChatService:
    """The chat of the current configuration. `fault` is why chat is disabled; its code is the state in /health."""

    def __init__(self) -> None:
        self.fault: Finding | None = _STARTING
        self._settings: ChatSettings | None = None
        self._chat: Chat | None = None
        self._applied = asyncio.Event()
        self._lock = asyncio.Lock()
        self._watcher: asyncio.Task[None] | None = None
        self._place = os.environ.get(PLACE, "")

    @property
    def state(self) -> str:
        """The state of chat: that it works, or the code of its fault."""
        return self.fault.code if self.fault else "on"

    @property
    def why(self) -> str:
        """Why chat is disabled, if `state` does not say everything. The text can name a file."""
        return self.fault.sentence if self.fault and self._settings is not None else ""

    @property
    def started_by(self) -> str | None:
        """Which program starts the turns: `systemd` or `handler`. None if chat is not configured."""
        return None if self._settings is None else "systemd" if self._place else "handler"

    @property
    def running_turns(self) -> int:
        """How many turns this handler runs now."""
        return len(self._chat.running) if self._chat is not None else 0

    async def use(self, config: Config) -> None:
        """Apply a configuration, at the start and after each reload. Requests to chat wait for that."""
        self._applied.clear()
        async with self._lock:
            self._settings = None if self._place == "off" else config.chat
            self.fault = _STARTING
            if self._settings is None:
                self.fault = _OFF if self._place == "off" else _FAULTY if config.chat_fault else _NONE
            else:
                self.fault = await self._find_fault(self._settings)
            self._applied.set()
            audit.note("chat", state=self.state, isolated=self.fault is None or None, why=self.why)
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._look_again_and_again())

    async def _look_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            async with self._lock:
                if self._settings is None:
                    continue
                before, self.fault = self.fault, await self._find_fault(self._settings)
                if self.fault != before:
                    audit.note("chat-down" if self.fault else "chat-up", state=self.state, why=self.why)

    async def _find_fault(self, settings: ChatSettings) -> Finding | None:
        """Return why chat is disabled. Does not try working sandboxes again, because that starts a process."""
        if _import_error:
            return self._fail(_import_error)
        try:
            chat = await self._open(settings)
            lack = await chat.disk.run(_find_lack, settings)
            is_known = self.fault is None and not chat.is_in_doubt
            chat.is_in_doubt = False
            return lack or (None if is_known else await self._try_walls(settings))
        except SessionsUnwritable as fault:
            return error("chat", fault.code, fault.message, fault.hint)
        except Exception as fault:  # chat is optional, so its defects must not affect other parts
            return self._fail(repr(fault))

    async def _open(self, settings: ChatSettings) -> "Chat":
        """Open the store. If sessions.dir has changed, a new chat begins, and the old one ends its turns."""
        chat = self._chat
        if chat is not None and chat.settings.sessions_dir != settings.sessions_dir:
            await chat.stop()
            await chat.disk.run(chat.store.close)
            chat = None
        self._chat = chat or Chat(settings, Disk(), self._place)
        self._chat.settings = settings
        await self._chat.open()
        return self._chat

    async def _try_walls(self, settings: ChatSettings) -> Finding | None:
        try:
            answer = await ask_probe(self._place, find_program(settings))
        except (OSError, TimeoutError, ValueError) as fault:
            if self._place:
                return error("chat", "failed", f"systemd starts no turn at {self._place}: {reason(fault)}", RESTART)
            return self._fail(f"the program that runs turns does not start: {reason(fault)}")
        if not answer.get("fault"):
            return None
        code = _WALLS.get(str(answer.get("code")), "failed")
        return error("chat", code, str(answer["fault"]), str(answer.get("fix", "")))

    def _fail(self, why: str) -> Finding:
        failed = error("chat", "failed", f"chat could not be loaded: {why}", "restart the handler")
        if failed != self.fault:
            audit.note("chat-failed", error=why)
        return failed

    async def chat(self, stops: bool = False) -> "Chat":
        """Return the chat. Raises ChatDisabled or ChatNotIsolated, with a hint about what to do.

        With `stops`, return it even after chat was disabled, because the turns that still run can be stopped.
        """
        if stops and self._chat is not None:
            return self._chat
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_SECONDS):
                await self._applied.wait()
        fault = self.fault
        if self._chat is not None and (fault is None or fault.code in _SAID_BY_TURNS):
            return self._chat
        assert fault is not None
        kind = ChatNotIsolated if fault.code == "chat-not-isolated" else ChatDisabled
        said = fault.sentence if self._settings is None or fault is _STARTING else f"chat is disabled: {fault.sentence}"
        raise kind(said, fault.fix)

    async def stop(self) -> None:
        """End every turn."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._chat is not None:
            await self._chat.stop()


def _find_lack(settings: ChatSettings) -> Finding | None:
    """Return which program of a turn is missing, or None. This starts no process. The sentence is for the log."""
    if not os.access(find_program(settings), os.X_OK):
        why = f"chat.command names {settings.command}, which is missing or not executable"
        return error("chat", "claude-missing", why, "")
    if not os.access(bwrap(), os.X_OK):
        return error("chat", "sandbox-missing", "bwrap is not installed", "apt-get install bubblewrap")
    return None
