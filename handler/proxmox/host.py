"""Requests over the connection to one Proxmox host. A request is sent again if its answer was lost.

A request ends in exactly one of three ways: with the host's messages, with `Unreached` (nothing was sent), or with
`Lost` (it may have been sent). A failed login is rarely repeated, because OpenSSH penalises failed logins.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

from ..base.errors import Lost, Unreached
from ..config.model import Host, Vm
from .channel import CLOSED
from .keeping import KeptLink
from .link import Link
from .outcome import Message
from .wire import Replay, vmid_in

RETRY_SECONDS = 20.0  # for this long, a request whose answer was lost is sent again
RETRY_PAUSE = 0.5
QUIET_SECONDS = 2.0  # a link that sent something this recently needs no ping
MOVED = "host-changed"  # the cause when a reload gave the VM another host
_FINAL = ("key-not-accepted", "host-key-differs", MOVED)  # causes that another attempt can't remove

T = TypeVar("T")


class HostConnection(KeptLink):
    """The connection to one host, for all its VMs, and the requests on it."""

    def __init__(self, host: Host, on_answer: Callable[[], object] = lambda: None) -> None:
        super().__init__(host, on_answer)
        self.retry_seconds = RETRY_SECONDS
        self._reads: dict[str, asyncio.Task[list[Message]]] = {}
        self._tracked: set[asyncio.Task[Any]] = set()
        # the VMs of this host in the current configuration, by number; None means any VM
        self.vms: Mapping[int, Vm] | None = None

    # --- asking ---

    async def read(self, line: str) -> list[Message]:
        """Return the messages of a request that changes nothing. Identical requests in flight share one answer."""
        task = self._reads.get(line)
        if task is None:
            task = self._reads[line] = asyncio.create_task(self._read(line))
            task.add_done_callback(lambda read: (self._reads.pop(line, None), read.cancelled() or read.exception()))
        return await asyncio.shield(task)

    async def _read(self, line: str) -> list[Message]:
        return [message async for message in self.run(line, ping_first=False)]

    async def result(self, line: str) -> Message:
        """Return the result of a request; raises the same errors as `run`."""
        return [message async for message in self.run(line)][-1]

    async def run(self, line: str, ping_first: bool = True, asked: Vm | None = None) -> AsyncIterator[Message]:
        """Send a request and yield the host's messages, the last one a result; raises Unreached or Lost.

        `ping_first` makes sure that a quiet connection answers before the request is sent. If the answer is lost, the
        same line is sent again for RETRY_SECONDS; the id makes that safe. If the connection ended before the line was
        sent, the line is sent once over a new connection. A late answer does not close a connection on which the host
        agent still answers, because the requests of other VMs use it too. If the VM that was asked for has a name on
        Proxmox, it counts, because another entry may have the same number and another name.
        """
        replay, reconnected = Replay(), False
        first_loss: float | None = None
        began = time.monotonic()
        while True:
            try:
                link = await self._ready(ping_first)
                vm = asked if asked and asked.proxmox_name else (self.vms or {}).get(vmid_in(line))
                await link.prepare(until_heard=vm is not None and bool(vm.proxmox_name or not vm.last_words))
                self._check_place(line)  # the last check, because a reload may come during the waits above
                replay.begin()
                async for message in link.ask(link.handshake.fit(line, vm) if vm else line):
                    if replay.is_new(message):
                        yield message
                if ping_first:  # the verb may change the VM's state, so no later read may share an earlier answer
                    self._reads.clear()
                return
            except Unreached as error:
                if error.cause == CLOSED and not reconnected:
                    reconnected = True
                    continue
                if first_loss is None:
                    raise
                await self._pause_or_give_up(first_loss, error.reason, error.cause in _FINAL)
            except Lost as error:
                if not await link.answers():
                    link.abort()
                # the time for repeating a read counts from the start of the read
                first_loss = first_loss or (time.monotonic() if ping_first else began)
                await self._pause_or_give_up(first_loss, error.message)

    def _check_place(self, line: str) -> None:
        """Raise Unreached if a reload has moved or removed the VM since the request began."""
        if self.vms is not None and vmid_in(line) not in self.vms:
            reason = f"a reload has taken VM {vmid_in(line)} off {self.host.name}"
            raise Unreached(MOVED, reason, "see /health for the configured VMs")

    async def _pause_or_give_up(self, first_loss: float, reason: str, is_final: bool = False) -> None:
        if is_final or time.monotonic() - first_loss > self.retry_seconds:
            raise Lost(reason) from None
        await asyncio.sleep(RETRY_PAUSE)

    async def _ready(self, ping_first: bool) -> Link:
        for _ in range(2):
            link = await self.connected()
            if not ping_first or await link.answers(QUIET_SECONDS):
                return link
            link.abort()  # the connection was dead, and the request was not sent yet
        raise Unreached("timeout", f"{self.host.ssh} does not answer", "look at the host's console")

    # --- ending ---

    def track(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        """Keep the connection at least until a task has ended; return the task."""
        self._tracked.add(task)
        task.add_done_callback(self._tracked.discard)
        return task

    async def finish(self) -> None:
        """Close the connection once the last tracked task has ended."""
        self.stop_keeping()
        while self._tracked:
            await asyncio.wait(self._tracked)
        await self.close()

    async def close(self) -> None:
        """Close the connection now."""
        for read in list(self._reads.values()):  # otherwise a read without clients would open the connection again
            read.cancel()
        await super().close()
