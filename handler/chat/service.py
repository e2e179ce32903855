"""Decides whether chat is on, and says why if it is not.

Chat is optional. A fault of chat shows in `/health` and in a 503 from `/chat`; the verbs are not affected.
"""

import asyncio
import hashlib
import os
import socket
from collections.abc import Sequence

from ..base import audit
from ..base.findings import Finding
from ..config.model import ChatSettings, Config
from .request import ChatDisabled, ChatNotIsolated, LauncherLate

try:
    from ..claude.isolation import isolation_fault
    from .launcher import LauncherClient
    from .parts import EarlierLooks, Part, find_lack, list_parts
    from .sessions_dir import SessionsDisk
    from .turns import Chat

    _import_error = ""
except Exception as error:  # a defect of chat's modules must not stop the verbs
    _import_error = repr(error)

READY_SECONDS = 10.0
LOOK_SECONDS = 10.0  # between two looks at what a turn needs

_WHY_NOT = {
    "none": ("chat is not configured", "add [chat] to the configuration; see breakglass docs protocol, section 1"),
    "disabled": ("chat is disabled: its entry has an error", "the log names it: correct [chat], then reload"),
    "starting": ("chat is not ready yet", "try again in a moment"),
    "failed": ("chat is disabled: it could not be loaded", "the log says why"),
}
_NOT_ISOLATED = "correct that, and reload; without root, shared_uid = true allows chat about VMs without a guest"


class ChatService:
    """The chat of the configuration in force. `state` is `on`, `none`, or the code that says why it is disabled.

    If something that a turn needs goes away later, `state` has a code too, until it is back. Turns are begun all the
    same: the look may be old, and a turn says by itself what it lacks.
    """

    def __init__(self) -> None:
        self._applied_state = "starting"
        self._is_shared = False
        self._applied_why = ""
        self._lack: Finding | None = None
        self._parts: Sequence[Part] = ()
        self._watcher: asyncio.Task[None] | None = None
        self._looks: EarlierLooks | None = None
        self._put_off: Config | None = None  # what waits for a disk that hangs, or for a late launcher
        self._chat: Chat | None = None
        self._applied = asyncio.Event()
        self._lock = asyncio.Lock()
        self._launcher: LauncherClient | None = None
        self._watched: socket.socket | None = None

    @property
    def state(self) -> str:
        """Whether chat works, or the code of why it does not."""
        return self._lack.code if self._applied_state == "on" and self._lack else self._applied_state

    @property
    def why(self) -> str:
        """Why chat is not on, where `state` does not say it all. It can name a file."""
        return self._lack.sentence if self._applied_state == "on" and self._lack else self._applied_why

    @property
    def isolated(self) -> bool | None:
        """Whether claude is isolated from the handler; None unless chat is on."""
        return not self._is_shared if self.state == "on" else None

    @property
    def directory(self) -> str | None:
        """A name for sessions.dir, the same at every handler that shares it; None without chat, or if it has no id."""
        found = self._looks.directory_id if self._looks is not None and self._applied_state == "on" else ""
        return hashlib.sha256(found.encode()).hexdigest()[:8] if found else None

    def use_launcher(self, launcher: "LauncherClient") -> None:
        """Have a process that is root start the turns. Call it in the event loop, before any request."""
        self._launcher = launcher
        self._watch(launcher.channel)

    def _watch(self, channel: socket.socket | None) -> None:
        if channel is not None and channel is not self._watched:
            self._watched = channel
            asyncio.get_running_loop().add_reader(channel, self._lose_launcher)

    def _lose_launcher(self) -> None:
        """Disable chat: the launcher sends nothing by itself, so it has ended. A reload may find another one."""
        assert self._launcher is not None
        asyncio.get_running_loop().remove_reader(self._watched or -1)
        self._watched = None
        self._launcher.disconnect()
        self._applied_why = "the launcher has ended"
        if self._applied_state in ("on", "starting"):
            self._applied_state = "failed"
            audit.note("chat", state=self.state, isolated=None, why=self.why)

    async def use(self, config: Config) -> None:
        """Apply a configuration, at the start and after each reload. Requests to chat wait until that is done.

        What has been put off is tried again. No request waits for that: chat stays disabled until the try has ended.
        """
        async with self._lock:
            await self._use(config)

    async def _use(self, config: Config) -> None:
        is_retry, before = self._put_off is config, (self._applied_state, self._applied_why)
        if not is_retry:  # a retry leaves the state and its reason as they are until it has ended
            self._applied.clear()
            self._applied_state, self._applied_why, self._put_off = "starting", "", None
        self._lack = None
        try:
            state = await self._apply(config)
        except Exception as error:  # chat is optional, so no defect of it may go further
            state = "failed"
            self._applied_why = str(error) if isinstance(error, OSError) else ""  # as a LauncherError is
            self._put_off = config if isinstance(error, LauncherLate) else None
            if not is_retry or (state, self._applied_why) != before:
                audit.note("chat-failed", error=repr(error))
        self._is_shared = config.chat is not None and config.chat.shared_uid
        self._applied_state = state
        self._applied.set()
        if not is_retry or (state, self._applied_why) != before:
            audit.note("chat", state=self.state, isolated=self.isolated, why=self.why)

    async def _apply(self, config: Config) -> str:
        if config.chat is None:
            return "disabled" if config.chat_fault else "none"
        if _import_error:
            raise RuntimeError(_import_error)
        if self._chat is None:
            self._chat = Chat(config.chat, SessionsDisk(), self._launcher)
        self._chat.use(config.chat)
        await self._begin_to_look(config.chat)
        if self._lack is not None and any(part.is_hanging for part in self._parts):
            self._put_off, self._applied_why = config, self._lack.sentence
            return self._lack.code
        if self._launcher is not None:
            await self._chat.disk.run(self._launcher.connect)
            self._watch(self._launcher.channel)
            self._applied_why = await self._chat.disk.run(self._launcher.check)
        else:
            await self._chat.prepare()
            self._applied_why = await self._chat.disk.run(isolation_fault, config)
        self._lack = await find_lack(self._parts)  # again: the directories may be new
        self._put_off = None
        return "chat-not-isolated" if self._applied_why else "on"

    async def _begin_to_look(self, settings: ChatSettings) -> None:
        """Look at what a turn needs, now and then again and again."""
        had_sandbox = self._looks is not None and self._looks.had_sandbox
        self._looks = EarlierLooks()
        self._looks.had_sandbox = had_sandbox
        self._parts = list_parts(settings, os.environ, self._looks)
        self._lack = await find_lack(self._parts)
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._look_again_and_again())

    async def _look_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            parts, before, put_off = self._parts, self.state, self._put_off
            if self._applied_state != "on" and put_off is None:
                continue
            lack = await find_lack(parts)
            if parts is not self._parts or put_off is not self._put_off:  # a reload came meanwhile
                continue
            if put_off is not None and lack is not None and any(part.is_hanging for part in parts):
                self._applied_state, self._applied_why = lack.code, lack.sentence
            elif put_off is not None:
                async with self._lock:
                    if self._put_off is put_off:  # a reload may have come while this waited for the lock
                        await self._use(put_off)
            if self._applied_state != "on" or put_off is not None:
                continue
            self._lack = lack
            if self.state != before:
                audit.note("chat-down" if lack else "chat-up", state=self.state, why=self.why)

    @property
    def running_turns(self) -> int:
        """How many turns this handler runs now."""
        return len(self._chat.running) if self._chat is not None else 0

    async def chat(self, stops: bool = False) -> "Chat":
        """Return the chat; raise ChatDisabled or ChatNotIsolated, whose hints say what to do.

        With `stops`, return it also after chat was disabled: the turns that still run can be stopped.
        """
        if stops and self._chat is not None:
            return self._chat
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._applied.wait()
        except TimeoutError:
            pass
        state, why = self._applied_state, self._applied_why
        if state == "on" and self._chat is not None:
            return self._chat
        if state == "chat-not-isolated":
            raise ChatNotIsolated(f"chat is disabled: nothing would keep claude from the keys: {why}", _NOT_ISOLATED)
        if state == "failed" and why:
            again = "Breakglass asks it again by itself; if that does not help, " if self._put_off is not None else ""
            hint = f"{again}restart Breakglass, or reload it if a unit runs its launcher"
            raise ChatDisabled(f"chat is disabled: {why}", hint)
        if self._put_off is not None:
            raise ChatDisabled(f"chat is disabled: {state}: {why}", "look at that disk; chat is on once it answers")
        raise ChatDisabled(*_WHY_NOT[state])

    async def stop(self) -> None:
        """End every turn."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._chat is not None:
            await self._chat.stop()
