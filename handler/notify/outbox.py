"""The messages that wait for their receivers, with three tries for each in ten minutes."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..base import audit, counts
from ..config.model import Config
from ..config.notify import Recipient
from .messages import Message
from .send import NotSent, send

TRY_AFTER = (0.0, 60.0, 420.0)  # seconds before each try to send a message
MOST_WAITING = 64  # messages of one receiver
AT_ONCE = 4
_MOST_KNOWN = 1000

T = TypeVar("T")


class Outbox:
    """Who has taken which message. `missed` says why a configured receiver did not take the newest message."""

    def __init__(self, receivers: Callable[[], Sequence[Recipient]]) -> None:
        self.missed: dict[Recipient, str] = {}
        self._receivers = receivers
        self._waiting: dict[Recipient, int] = {}
        self._turns: dict[Recipient, asyncio.Semaphore] = {}
        self._sent: dict[tuple[Recipient, str, str], None] = {}

    def use(self, config: Config) -> None:
        """Forget receivers that a reload has removed."""
        self.missed = {each: why for each, why in self.missed.items() if each in config.notify}
        self._waiting = {each: count for each, count in self._waiting.items() if each in config.notify}
        self._turns = {each: turn for each, turn in self._turns.items() if each in config.notify}

    async def tell(self, message: Message) -> bool:
        """Send a message to each receiver that wants it; tell whether there is one and all have taken it."""
        receivers = [each for each in self._receivers() if message.wanted_by(each)]
        return bool(receivers) and all(await asyncio.gather(*(self.send(message, each) for each in receivers)))

    async def send(self, message: Message, receiver: Recipient) -> bool:
        """Send a message to one receiver; tell whether it has taken it."""
        known = (receiver, message.key, message.stage)
        if known in self._sent:
            return True
        waiting = self._waiting.get(receiver, 0)
        why = f"{waiting} messages wait already" if waiting >= MOST_WAITING else ""
        if not why:
            self._waiting[receiver] = waiting + 1
            try:
                why = await self._try(message, receiver)
            finally:
                self._waiting[receiver] = self._waiting.get(receiver, 1) - 1
        name, to, key, stage = receiver.name, receiver.to, message.key, message.stage
        counts.in_use.add_notification(to, not why)
        if why:
            if receiver in self._receivers():  # a reload may have removed it meanwhile
                self.missed[receiver] = why
            audit.note("notify-failed", receiver=name, to=to, key=key, stage=stage, why=why)
        else:
            self.missed.pop(receiver, None)
            remember(self._sent, known)
            audit.note("notify", receiver=name, to=to, key=key, stage=stage)
        return not why

    async def _try(self, message: Message, receiver: Recipient) -> str:
        """Try to send a message three times; return why it could not be sent, or an empty text."""
        why, turn = "", self._turns.setdefault(receiver, asyncio.Semaphore(AT_ONCE))
        for seconds in TRY_AFTER:
            await asyncio.sleep(seconds)
            try:
                async with turn:
                    await send(message, receiver)
            except NotSent as error:
                why = str(error)
            else:
                return ""
        return why


def remember(known: dict[T, None], item: T) -> None:
    """Add an item, and forget the oldest of too many."""
    known[item] = None
    if len(known) > _MOST_KNOWN:
        del known[next(iter(known))]
