"""Keeps the connection to one host open in the background, and records the host's state."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from ..agents.bundle import known_digest
from ..agents.pve.words import VERSION
from ..base import audit
from ..base.errors import Unreached
from ..config.model import Host
from ..config.warnings import warn_of_agent
from .channel import CLOSED, LOST
from .handshake import Handshake
from .link import Link, open_link
from .patience import backoff_seconds, first_pause, refusal_seconds

AUTH_PAUSE = 60.0  # minimum between two attempts with a key that was not accepted
# a connection that lasts this long counts as good, because a host without memory may kill a session at once
LASTING_SECONDS = 10.0
REOPEN_SECONDS = 0.2  # the pause before a good connection that ended is opened again
LOOK_SECONDS = 30.0  # between two checks of an open connection whose host agent was silent
# After this time without messages, the host agent is asked whether another handler has proven the host, if it does not
# tell which node has which VM. If it does, it is asked at each check, because VMs move.
NEWS_SECONDS = 3600.0
UP = ("answering", "agent-outdated")


class KeptLink:
    """The SSH connection to one host, opened again whenever it ends.

    `trouble` is why the last attempt to connect failed. `since` is the Unix time at which `trouble` last changed.
    `node` and `cluster` are Proxmox names, and are kept when the connection ends. `node` is the configured name,
    otherwise the name that the host agent last reported, otherwise empty. `cluster` is the name that the host agent
    last reported, otherwise the configured name, otherwise None; it is empty for a node outside any cluster.
    `on_answer` is called when the host agent has identified itself.
    """

    def __init__(self, host: Host, on_answer: Callable[[], object] = lambda: None) -> None:
        self.host = host
        self.node = host.node
        self.cluster = host.cluster or None
        self.trouble: Unreached | None = None
        self.since: float | None = None
        self.chance = random.random  # the random part of each pause
        self.may_log_in = True  # whether a request may log in again
        self._on_answer = on_answer
        self._noted = ""  # the state that was last written to the log
        self._link: Link | None = None
        self._attempt: asyncio.Task[Link] | None = None
        self._refused_at = float("-inf")
        self._opened = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    # --- connecting ---

    @property
    def link(self) -> Link | None:
        """The connection that is open now, if any."""
        return self._link if self._link is not None and self._link.alive else None

    @property
    def is_down(self) -> bool:
        """Whether the last attempt to connect has failed."""
        return self.link is None and self.trouble is not None

    async def connected(self) -> Link:
        """Return the open connection. Requests that wait for one share one attempt and its failure."""
        if link := self.link:
            return link
        return await asyncio.shield(self.try_again())

    def try_again(self) -> "asyncio.Task[Link]":
        """Begin to connect, unless an attempt is under way; return the attempt."""
        if self._attempt is None:
            self._attempt = asyncio.create_task(self._connect())
            self._attempt.add_done_callback(self._use_attempt)
        return self._attempt

    def _use_attempt(self, attempt: asyncio.Task[Link]) -> None:
        self._attempt = None
        if not attempt.cancelled() and attempt.exception() is None:
            self._link = attempt.result()

    async def _connect(self) -> Link:
        if not self.may_log_in:
            raise Unreached(CLOSED, f"a reload replaced {self.host.ssh}", "send it again")
        if self.trouble and time.monotonic() - self._refused_at < AUTH_PAUSE:
            raise self.trouble
        try:
            link = await open_link(self.host)
        except Unreached as error:
            if error.cause == "key-not-accepted":
                self._refused_at = time.monotonic()
            self._set_trouble(error)
            raise
        self._opened.set()
        link.handshaking.add_done_callback(lambda _: self._end_of_handshake(link))
        return link

    def _end_of_handshake(self, link: Link) -> None:
        """Report that the connection is up, but only after the host agent has identified itself."""
        self.node = self.host.node or link.handshake.node or self.node
        self.hear_cluster(link.handshake.cluster)
        if link.alive:
            self._set_trouble(None)
            self._on_answer()

    def hear_cluster(self, name: object) -> None:
        """Keep the name of the host's cluster, if it is one."""
        if isinstance(name, str):
            self.cluster = name[:200]

    def _set_trouble(self, trouble: Unreached | None) -> None:
        self.trouble, self.since = trouble, self.since or time.time()
        state = self.health()
        if state != self._noted:
            self._noted, self.since = state, time.time()
            why = trouble.reason if trouble else ""
            audit.note("host-up" if state in UP else "host-down", host=self.host.name, state=state, why=why)

    # --- keeping it open ---

    def start(self, hosts: int = 1) -> None:
        """Keep the connection open until `stop_keeping` or `close`. `hosts` is the number of hosts."""
        self._keeper = asyncio.create_task(self.keep_open(first_pause(hosts, self.chance())))

    async def keep_open(self, pause: float = 0.0) -> None:
        """Keep the connection open until cancelled. Requests do not wait for the pauses between attempts."""
        failures = refusals = 0
        await asyncio.sleep(pause)
        while True:
            try:
                link = await self.connected()
                refusals, began = 0, time.monotonic()
                await self._watch(link)
                lasted = link.channel.why_closed == LOST and time.monotonic() - began > LASTING_SECONDS
                failures = 0 if lasted and link.handshake.heard else failures + 1
                self._set_trouble(self._describe_end(link))
            except Unreached as error:
                failures += 1
                if error.cause == "key-not-accepted":
                    refusals += 1
                    await self._wait_until_opened(refusal_seconds(refusals, self.chance()))
                    continue
            except Exception as error:  # a defect of the handler must not stop the reconnecting
                failures += 1
                audit.note("keep-open-failed", host=self.host.name, error=repr(error))
            await asyncio.sleep(backoff_seconds(failures, self.chance()) if failures else REOPEN_SECONDS)

    def _describe_end(self, link: Link) -> Unreached:
        if link.channel.why_closed != LOST:
            return Unreached(CLOSED, f"{self.host.ssh}: {link.channel.why_closed}", "look at the host")
        if not link.handshake.heard:
            return Unreached(
                "agent-silent", f"no host agent answers at {self.host.ssh}", "run breakglass-pve check there"
            )
        return Unreached(CLOSED, f"the connection to {self.host.ssh} was lost", "wait a moment")

    async def _wait_until_opened(self, seconds: float) -> None:
        """Return once a request has opened the connection, or after so many seconds."""
        self._opened.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._opened.wait(), seconds)

    async def _watch(self, link: Link) -> None:
        """Return when the connection has ended. Asks again if the host agent was too busy to identify itself."""
        while True:
            with suppress(TimeoutError):
                return await asyncio.wait_for(link.conn.wait_closed(), LOOK_SECONDS)
            with suppress(Unreached):  # the host is still the wrong node, which its state already reports
                await link.prepare(until_heard=True)
            await link.answers(0.0 if link.handshake.places is not None else NEWS_SECONDS)
            self._end_of_handshake(link)

    def stop_keeping(self) -> None:
        """Stop reopening the connection, unless a request needs it."""
        if self._keeper is not None:
            self._keeper.cancel()

    async def close(self) -> None:
        """Close the connection now."""
        for task in (self._keeper, self._attempt):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._link is not None:
            self._link.conn.close()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._link.conn.wait_closed(), 1)

    # --- what is known of the host ---

    def serves_verbs(self, host: Host) -> bool:
        """Return whether the connection is open and its host agent matches the current settings."""
        return self.link is not None and not self.link.handshake.fault(host)

    def serves(self, vmids: Iterable[int]) -> bool:
        """Return whether this connection reaches all of these VMs that a new login could reach.

        A login that is under way may use an authorized_keys line that has been changed since.
        """
        mendable = ("key-not-accepted", "agent-silent", "wrong-node", "not-allowed", "read-only-key", "not-checked")
        return not any(self.health(vmid) in mendable for vmid in vmids)

    def health(self, vmid: int | None = None) -> str:
        """Return `answering` if a verb would reach this VM, `not-checked`, or the code of the fault."""
        if self.trouble is not None:
            return self.trouble.cause
        if self.since is None:
            return "not-checked"
        fault = self.handshake.fault(self.host, vmid) if self._link is not None else ""
        return fault or ("agent-outdated" if self._is_outdated else "answering")

    @property
    def warnings(self) -> list[str]:
        """What the operator should change on the host."""
        return warn_of_agent(self.host.name, self.handshake.version, VERSION) if self._is_outdated else []

    @property
    def handshake(self) -> Handshake:
        """The last handshake of the host agent on the newest connection."""
        return self._link.handshake if self._link is not None else Handshake()

    @property
    def _is_outdated(self) -> bool:
        bundle, own = self.handshake.bundle, known_digest()
        return bool(bundle and own) and bundle != own
