"""The road to one Proxmox host: kept open, asked once, and asked again when an answer was lost.

Says exactly one of three things about a request: the host answered (its messages), nothing was sent (`Unreached`), or
it may have been sent (`Lost`). Never retries an authentication failure by itself: OpenSSH penalises those.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, TypeVar

from .. import audit
from ..config.model import Vm
from .link import ClosedBeforeSending, Link, open_link
from .outcome import NOTHING_SENT, Lost, Message, Unreached
from .patience import backoff_seconds
from .wire import Replay

SETTLE_SECONDS = 20.0  # to find out what became of a request whose answer was lost
AUTH_PAUSE = 60.0  # between two attempts with a key that was not accepted, and only when somebody asks
REOPEN_SECONDS = 0.2  # before a connection that was good and ended is opened again

Found = TypeVar("Found")


class Host:
    """The road to one VM's host, kept open in the background."""

    def __init__(
        self, vm: Vm, settle_seconds: float = SETTLE_SECONDS, chance: Callable[[], float] = random.random
    ) -> None:
        self.vm = vm
        self._chance = chance
        self.trouble: Unreached | None = None
        self.since: float | None = None
        self._settle_seconds = settle_seconds
        self._link: Link | None = None
        self._attempt: asyncio.Task[Link] | None = None
        self._reads: dict[str, asyncio.Task[list[Message]]] = {}
        self._refused_at = float("-inf")
        self._opened = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._tracked: set[asyncio.Task[Any]] = set()

    # --- asking ---

    async def read(self, line: str) -> list[Message]:
        """Return the messages of a reading verb; identical ones in flight at once are asked once."""
        task = self._reads.get(line)
        if task is None:
            task = self._reads[line] = asyncio.create_task(self._read(line))
            task.add_done_callback(lambda _: self._reads.pop(line, None))
        return await asyncio.shield(task)

    async def _read(self, line: str) -> list[Message]:
        return [message async for message in self.run(line, careful=False)]

    async def result(self, line: str) -> Message:
        """Return the result of a line; raise as `run` does."""
        return [message async for message in self.run(line)][-1]

    async def run(self, line: str, careful: bool = True) -> AsyncIterator[Message]:
        """Yield the host's messages, the last one a result. `careful` asks for a sign of life before sending.

        When the answer is lost, the same line is sent again for a while: the host makes that safe, by the id. When the
        connection ended before the line was sent, it is sent once over a new one. Raises Unreached when nothing was
        sent, Lost when it stays unknown.
        """
        replay, first_loss, reconnected = Replay(), None, False
        while True:
            try:
                link = await self._ready(careful)
                replay.begin()
                async for message in link.ask(line):
                    if replay.is_new(message):
                        yield message
                return
            except Unreached as trouble:
                if isinstance(trouble, ClosedBeforeSending) and not reconnected:
                    reconnected = True
                    continue
                if first_loss is None:
                    raise
                await self._pause_or_give_up(first_loss, trouble)
            except Lost as loss:
                if not link.spent:
                    link.abort()
                first_loss = first_loss or time.monotonic()
                await self._pause_or_give_up(first_loss, loss)

    async def _pause_or_give_up(self, first_loss: float, why: Exception) -> None:
        final = isinstance(why, Unreached) and why.code in ("key-not-accepted", "host-key-differs")
        if final or time.monotonic() - first_loss > self._settle_seconds:
            raise Lost(str(why).removesuffix(NOTHING_SENT)) from None
        await asyncio.sleep(0.5)

    async def _ready(self, careful: bool) -> Link:
        for _ in range(2):
            link = await self._connected()
            try:
                if careful:
                    await link.ping()
                return link
            except Lost:  # it died unnoticed; nothing was sent yet
                link.abort()
                if self._link is link:
                    self._link = None
        raise Unreached("timeout", f"{self.vm.ssh} does not answer; nothing was sent", "look at the host's console")

    # --- connecting ---

    async def _connected(self) -> Link:
        """Return the open connection; all who wait for one share one attempt and its failure."""
        if self._link is not None and self._link.alive:
            return self._link
        if self._attempt is None:
            self._attempt = asyncio.create_task(self._connect())
            self._attempt.add_done_callback(self._attempted)
        return await asyncio.shield(self._attempt)

    def _attempted(self, attempt: asyncio.Task[Link]) -> None:
        self._attempt = None
        if not attempt.cancelled() and attempt.exception() is None:
            self._link = attempt.result()

    async def _connect(self) -> Link:
        if self.trouble and time.monotonic() - self._refused_at < AUTH_PAUSE:
            raise self.trouble
        try:
            link = await open_link(self.vm)
        except Unreached as trouble:
            if trouble.code == "key-not-accepted":
                self._refused_at = time.monotonic()
            self._noted(trouble)
            raise
        self._noted(None)
        self._opened.set()
        return link

    def _noted(self, trouble: Unreached | None) -> None:
        if self.since is None or (trouble and trouble.code) != (self.trouble and self.trouble.code):
            self.since = time.time()
        self.trouble = trouble

    async def keep_open(self) -> None:
        """Hold the connection open until cancelled; what a rescue needs is ready before it is needed."""
        failures = 0
        while True:
            try:
                link = await self._connected()
                failures = 0
                await link.closed()
                self._noted(Unreached("lost", f"the connection to {self.vm.ssh} was lost", "it is being reopened"))
            except Unreached as trouble:
                failures += 1
                if trouble.code == "key-not-accepted":  # only a person's request tries again
                    self._opened.clear()
                    await self._opened.wait()
            except Exception as error:  # a defect of ours must not close the road for ever
                failures += 1
                audit.note("keep-open-failed", vm=self.vm.name, error=repr(error))
            await asyncio.sleep(backoff_seconds(failures, self._chance()) if failures else REOPEN_SECONDS)

    # --- its life ---

    def start(self) -> None:
        """Begin to hold the connection open, until `finish` or `close`."""
        self._keeper = asyncio.create_task(self.keep_open())

    def track(self, task: asyncio.Task[Found]) -> asyncio.Task[Found]:
        """Keep the connection until a task has ended; return the task."""
        self._tracked.add(task)
        task.add_done_callback(self._tracked.discard)
        return task

    async def finish(self) -> None:
        """Close the connection once the last tracked task has ended."""
        await self._stop_keeping()
        while self._tracked:
            await asyncio.wait(self._tracked)
        await self.close()

    async def close(self) -> None:
        """Close the connection now."""
        await self._stop_keeping()
        if self._attempt is not None:
            self._attempt.cancel()
        if self._link is not None:
            self._link.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._link.closed()

    async def _stop_keeping(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    @property
    def link(self) -> Link | None:
        """The connection that is open now, if any."""
        return self._link if self._link is not None and self._link.alive else None

    @property
    def health(self) -> str:
        """`answering`, `not-checked`, or the code of what is wrong."""
        if self.trouble is not None:
            return self.trouble.code
        return "not-checked" if self.since is None else "answering"
