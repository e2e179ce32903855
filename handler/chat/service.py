"""Decides whether chat is on, and says why when it is off.

Chat is optional. A fault of chat shows in `/health` and in a 503 from `/chat`; the verbs are not affected.
"""

import asyncio
import socket

from .. import audit
from ..config.model import Config
from .errors import ChatNotIsolated, ChatOff

try:
    from ..claude.isolation import isolation_fault
    from .launcher import LauncherClient
    from .sessions_disk import SessionsDisk
    from .turns import Chat

    _import_error = ""
except Exception as error:  # a defect of chat's modules must not stop the verbs
    _import_error = repr(error)

READY_SECONDS = 10.0

_OFF = {
    "off": ("chat is not configured", "add [chat] to the configuration; see breakglass docs protocol, section 1"),
    "config-error": ("chat is off: its configuration has a fault", "see the handler's log, correct [chat], and reload"),
    "starting": ("chat is not ready yet", "try again in a moment"),
    "failed": ("chat is off: it could not be loaded", "see the handler's log"),
}
_NOT_ISOLATED = "correct that, and reload; without root, shared_uid = true allows chat about VMs without a guest"


class ChatService:
    """The chat of the configuration in force. `state` is `on`, `off`, or the code that says why it is off."""

    def __init__(self) -> None:
        self.state = "starting"
        self.isolated: bool | None = None  # None: chat is off
        self._why = ""
        self._chat: Chat | None = None
        self._applied = asyncio.Event()
        self._lock = asyncio.Lock()
        self._launcher: LauncherClient | None = None
        self._watched: socket.socket | None = None

    @property
    def why(self) -> str:
        """Why chat is not on, where `state` does not say it all."""
        return self._why

    def use_launcher(self, launcher: "LauncherClient") -> None:
        """Have a process that is root start the turns. Call it in the event loop, before any request."""
        self._launcher = launcher
        self._watch(launcher.channel)

    def _watch(self, channel: socket.socket | None) -> None:
        if channel is not None and channel is not self._watched:
            self._watched = channel
            asyncio.get_running_loop().add_reader(channel, self._lose_launcher)

    def _lose_launcher(self) -> None:
        """Switch chat off: the launcher sends nothing by itself, so it has ended. A reload may find another one."""
        assert self._launcher is not None
        asyncio.get_running_loop().remove_reader(self._watched or -1)
        self._watched = None
        self._launcher.disconnect()
        self._why = "the launcher has ended"
        if self.state in ("on", "starting"):
            self.state, self.isolated = "failed", None
            audit.note("chat", state=self.state, isolated=None, why=self._why)

    async def use(self, config: Config) -> None:
        """Apply a configuration, at the start and after each reload. Requests to chat wait until that is done."""
        async with self._lock:
            await self._use(config)

    async def _use(self, config: Config) -> None:
        self._applied.clear()
        self.state = "starting"
        try:
            self.state = await self._apply(config)
        except Exception as error:  # chat is optional, so no defect of it may go further
            self.state = "failed"
            self._why = str(error) if isinstance(error, OSError) else ""  # as a LauncherError is
            audit.note("chat-failed", error=repr(error))
        shared = config.chat is not None and config.chat.shared_uid
        self.isolated = not shared if self.state == "on" else None
        self._applied.set()
        audit.note("chat", state=self.state, isolated=self.isolated, why=self._why)

    async def _apply(self, config: Config) -> str:
        self._why = ""
        if config.chat is None:
            return "config-error" if config.chat_fault else "off"
        if _import_error:
            raise RuntimeError(_import_error)
        if self._chat is None:
            self._chat = Chat(config.chat, SessionsDisk(), self._launcher)
        self._chat.use(config.chat)
        if self._launcher is not None:
            await self._chat.disk.run(self._launcher.connect)
            self._watch(self._launcher.channel)
            self._why = await self._chat.disk.run(self._launcher.check)
        else:
            await self._chat.prepare()
            self._why = await self._chat.disk.run(isolation_fault, config)
        return "chat-not-isolated" if self._why else "on"

    async def chat(self, stops: bool = False) -> "Chat":
        """Return the chat; raise ChatOff or ChatNotIsolated, whose hints say what to do.

        With `stops`, return it also after chat was switched off: the turns that still run can be stopped.
        """
        if stops and self._chat is not None:
            return self._chat
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._applied.wait()
        except TimeoutError:
            pass
        if self.state == "on" and self._chat is not None:
            return self._chat
        if self.state == "chat-not-isolated":
            raise ChatNotIsolated(
                f"chat is off, because claude is not isolated from the handler: {self._why}", _NOT_ISOLATED
            )
        if self.state == "failed" and self._why:
            raise ChatOff(f"chat is off: {self._why}", "restart the handler, or reload it if a unit runs its launcher")
        raise ChatOff(*_OFF[self.state])

    async def stop(self) -> None:
        """End every turn."""
        if self._chat is not None:
            await self._chat.stop()
