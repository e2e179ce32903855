"""Whether there is chat, and if not, why not. It is loaded when [chat] asks for it, and whatever goes wrong with it is
a word in `/health` and a 503: the verbs know nothing of it."""

import asyncio
import importlib
from typing import TYPE_CHECKING

from .. import audit
from ..config.model import Config
from ..errors import ChatNotIsolated, ChatOff
from ..threads import Disk

if TYPE_CHECKING:
    from .turns import Chat

READY_SECONDS = 10.0

_OFF = {
    "off": ("chat is not configured", "add [chat] to the configuration: docs/protocol.md, section 1"),
    "config-error": ("chat is off: its configuration has a fault", "see the handler's log, mend it, reload"),
    "starting": ("chat is not ready yet", "try again in a moment"),
    "failed": ("chat is off: it could not be loaded", "see the handler's log"),
}
_REACHES = "set chat.user to an account that can't read what is the handler's, or shared_uid = true"


class Chatting:
    """The chat of the configuration in force. `state` is `on`, `off`, or the code that says why it is off."""

    def __init__(self) -> None:
        self.state = "starting"
        self.isolated: bool | None = None  # None: there is no chat
        self._why = ""
        self._disk = Disk()
        self._chat: Chat | None = None
        self._settled = asyncio.Event()
        self._one = asyncio.Lock()

    async def use(self, config: Config) -> None:
        """Follow a configuration, the one at the start or one that was reloaded; until that is judged, chat waits."""
        async with self._one:
            await self._use(config)

    async def _use(self, config: Config) -> None:
        self._settled.clear()
        self.state = "starting"
        try:
            self.state = await self._state(config)
        except Exception as error:  # chat is optional, whatever is wrong with it
            self.state = "failed"
            audit.note("chat-failed", error=repr(error))
        shared = config.chat is not None and config.chat.shared_uid
        self.isolated = not shared if self.state == "on" else None
        self._settled.set()
        audit.note("chat", state=self.state, isolated=self.isolated, why=self._why)

    async def _state(self, config: Config) -> str:
        self._why = ""
        if config.chat is None:
            return "config-error" if config.chat_fault else "off"
        module = await self._disk.run(importlib.import_module, "breakglass.chat.turns")
        if self._chat is None:
            self._chat = module.Chat(config.chat, self._disk)
        self._chat.use(config.chat)
        await self._chat.prepare()
        isolation = await self._disk.run(importlib.import_module, "breakglass.claude.isolation")
        self._why = await self._disk.run(isolation.reachable, config)
        return "chat-not-isolated" if self._why else "on"

    async def chat(self, stops: bool = False) -> "Chat":
        """Return the chat; raise ChatOff or ChatNotIsolated, which say what to do about it. What was begun before chat
        was switched off can still be stopped."""
        if stops and self._chat is not None:
            return self._chat
        try:
            async with asyncio.timeout(READY_SECONDS):
                await self._settled.wait()
        except TimeoutError:
            pass
        if self.state == "on" and self._chat is not None:
            return self._chat
        if self.state == "chat-not-isolated":
            raise ChatNotIsolated(f"chat is off: claude is not kept apart from the handler: {self._why}", _REACHES)
        raise ChatOff(*_OFF[self.state])

    async def stop(self) -> None:
        """End every turn."""
        if self._chat is not None:
            await self._chat.stop()
