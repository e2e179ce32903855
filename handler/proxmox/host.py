"""The connection to one Proxmox host: kept open, and used to send a request again when its answer was lost.

A request ends in exactly one of three ways: the host's messages, nothing was sent (`Unreached`), or it may have been
sent (`Lost`). A failed login is rarely tried again: OpenSSH penalises failed logins.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Container, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from .. import audit
from ..agents.bundle import known_digest
from ..agents.pve.words import VERSION
from ..config.model import Host
from ..config.warnings import warn_of_agent
from ..errors import Lost, Unreached
from ..proven import Proven
from .execs import CLOSED
from .keeping import KeptLink
from .link import Link
from .outcome import Message
from .patience import first_pause
from .wire import Replay, vmid_in

RETRY_SECONDS = 20.0  # for sending a request again whose answer was lost
RETRY_PAUSE = 0.5
QUIET_SECONDS = 2.0  # a link that sent something this recently needs no ping
MOVED = "host-changed"  # the cause when a reload gave the VM another host
UP = ("answering", "agent-outdated")
_FINAL = ("key-not-accepted", "host-key-differs", MOVED)  # causes that another attempt does not change

T = TypeVar("T")


class HostConnection(KeptLink):
    """The connection to one host, for all its VMs, kept open in the background."""

    def __init__(
        self, host: Host, retry_seconds: float = RETRY_SECONDS, chance: Callable[[], float] = random.random
    ) -> None:
        super().__init__(host, chance)
        self._retry_seconds = retry_seconds
        self._reads: dict[str, asyncio.Task[list[Message]]] = {}
        self._noted = ""  # the state that the log has last
        self._keeper: asyncio.Task[None] | None = None
        self._tracked: set[asyncio.Task[Any]] = set()
        self._before: HostConnection | None = None  # carries the requests until this one can, after a reload
        self.vmids: Container[int] | None = None  # the VMs that the configuration in force has here; None means any

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
        """Return the result of a request; raise as `run` does."""
        return [message async for message in self.run(line)][-1]

    async def run(self, line: str, ping_first: bool = True) -> AsyncIterator[Message]:
        """Send a request and yield the host's messages, the last one a result; raise Unreached or Lost.

        `ping_first` makes sure that a quiet connection answers before the request is sent. When the answer is lost,
        the same line is sent again for RETRY_SECONDS; the id makes that safe. When the connection ended before the
        line was sent, the line is sent once over a new connection. One late answer closes no connection on which the
        host agent still answers: it carries the requests of the host's other VMs.
        """
        replay, reconnected = Replay(), False
        first_loss: float | None = None
        began = time.monotonic()
        while True:
            try:
                link = await self._ready(ping_first)
                await link.prepare()
                self._check_place(line)  # last, because a reload may come while the others wait
                replay.begin()
                async for message in link.ask(line):
                    if replay.is_new(message):
                        yield message
                if ping_first:  # the VM's state may be another now, so no later read shares an earlier answer
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
                first_loss = first_loss or (time.monotonic() if ping_first else began)  # a late read is late for good
                await self._pause_or_give_up(first_loss, error.message)

    def _check_place(self, line: str) -> None:
        """Raise Unreached for a VM that a reload has moved or removed since the request began."""
        if self.vmids is not None and vmid_in(line) not in self.vmids:
            reason = f"a reload has taken VM {vmid_in(line)} off {self.host.name}"
            raise Unreached(MOVED, reason, "see /health for the configured VMs")

    async def _pause_or_give_up(self, first_loss: float, reason: str, is_final: bool = False) -> None:
        if is_final or time.monotonic() - first_loss > self._retry_seconds:
            raise Lost(reason) from None
        await asyncio.sleep(RETRY_PAUSE)

    async def _ready(self, ping_first: bool) -> Link:
        for _ in range(2):
            link = await self._connected()
            if not ping_first or await link.answers(QUIET_SECONDS):
                return link
            link.abort()  # the connection had died; the request was not sent yet
        raise Unreached("timeout", f"{self.host.ssh} does not answer", "look at the host's console")

    # --- starting and ending ---

    def start(self, before: "HostConnection | None" = None, hosts: int = 1) -> None:
        """Keep the connection open from now on, until `finish` or `close`.

        `before` is the connection that a reload replaces: while it is open, it carries the requests until this one can,
        unless the address is another: what answers there may be another machine. `hosts` is how many there are.
        """
        if before is not None and str(before.host.ssh) != str(self.host.ssh):
            self.track(asyncio.create_task(before.finish()))
        elif before is not None:
            self.track(asyncio.create_task(before._stop_keeping()))
            if before.host != self.host:  # no login by settings that are no longer in force
                before._refused_at = float("inf")
                before.trouble = Unreached(CLOSED, f"a reload replaced {before.host.ssh}", "send it again")
            self._before = before.carrier()
            if self._before is not before:
                before._before = None
                self.track(asyncio.create_task(before.finish()))
        self._keeper = asyncio.create_task(self.keep_open(first_pause(hosts, self._chance())))

    def _set_trouble(self, trouble: Unreached | None) -> None:
        super()._set_trouble(trouble)
        state = self.health()
        if state != self._noted:
            self._noted, self.since = state, time.time()
            why = trouble.reason if trouble else ""
            audit.note("host-up" if state in UP else "host-down", host=self.host.name, state=state, why=why)

    def _end_of_handshake(self, link: Link) -> None:
        super()._end_of_handshake(link)
        self.carrier()

    def carrier(self) -> "HostConnection":
        """Return the connection for a request: the one from before a reload, as long as only that one works."""
        if self._before is not None and (self._serves_as(self.host) or not self._before._serves_as(self.host)):
            self._let_go()
        if self._before is not None:
            self._before.vmids = self.vmids
        return self._before or self

    def _let_go(self) -> None:
        """Close the connection from before a reload once its requests have ended."""
        if self._before is not None:
            self.track(asyncio.create_task(self._before.finish()))
            self._before = None

    def track(self, task: asyncio.Task[T]) -> asyncio.Task[T]:
        """Keep the connection at least until a task has ended; return the task."""
        self._tracked.add(task)
        task.add_done_callback(self._tracked.discard)
        return task

    async def finish(self) -> None:
        """Close the connection once the last tracked task has ended."""
        await self._stop_keeping()
        self._let_go()
        while self._tracked:
            await asyncio.wait(self._tracked)
        await self.close()

    async def close(self) -> None:
        """Close the connection now."""
        await self._stop_keeping()
        if self._before is not None:
            await self._before.close()
        for task in (self._attempt, *self._reads.values()):  # an abandoned read would connect again
            if task is not None:
                task.cancel()
        if self._link is not None:
            self._link.conn.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._link.conn.wait_closed(), 1)

    async def _stop_keeping(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    def serves(self, vmids: Iterable[int]) -> bool:
        """Tell whether this connection reaches each of these VMs that a new login could reach.

        One that is logging in right now may do so by a key line that has been changed meanwhile.
        """
        mendable = ("key-not-accepted", "agent-silent", "wrong-node", "not-allowed", "read-only-key", "not-checked")
        return not any(self.health(vmid) in mendable for vmid in vmids)

    def health(self, vmid: int | None = None) -> str:
        """Return `answering` if a verb would reach this VM, `not-checked`, or the code of what is wrong."""
        if self.trouble is not None:
            return self.trouble.cause
        if self.since is None:
            return "not-checked"
        fault = self._link.handshake.fault(self.host, vmid) if self._link is not None else ""
        return fault or ("agent-outdated" if self._is_outdated else "answering")

    @property
    def warnings(self) -> list[str]:
        """What the operator should change on the host."""
        return warn_of_agent(self.host.name, self.agent_version, VERSION) if self._is_outdated else []

    @property
    def proven(self) -> Proven | None:
        """When the host was last proven, as it told last."""
        return self._link.handshake.proven if self._link is not None else None

    @property
    def agent_version(self) -> str:
        """The version that the host agent told last, an empty text before that."""
        return self._link.handshake.version if self._link is not None else ""

    @property
    def _is_outdated(self) -> bool:
        bundle, own = self._link.handshake.bundle if self._link is not None else "", known_digest()
        return bool(bundle and own) and bundle != own
