"""Keep a connection to one host open in the background, and remember why it is not."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from .. import audit
from ..allowance import SessionPause
from ..config.model import Host
from ..errors import Unreached
from .execs import CLOSED
from .link import Link, open_link
from .patience import backoff_seconds, refusal_seconds

AUTH_PAUSE = 60.0  # between two attempts with a key that was not accepted, at least
REOPEN_SECONDS = 0.2  # before a good connection that ended is opened again
LOOK_SECONDS = 30.0  # between two looks at an open connection: its session may have ended, its host agent been silent
NEWS_SECONDS = 3600.0  # of quiet, until the host agent is asked for news: another handler may have proven the host


class KeptLink:
    """The SSH connection to one host, opened again whenever it ends.

    `trouble` is why the last attempt to connect failed, `since` the Unix time at which that last changed. `node` and
    `cluster` are names in Proxmox, kept when the connection ends. `node` is the configured name, or else what the host
    agent said last, or else empty. `cluster` is what the host agent said last, or else the configured name, or else
    None; it is empty for a node that is in no cluster.
    """

    def __init__(self, host: Host, chance: Callable[[], float]) -> None:
        self.host = host
        self.node = host.node
        self.cluster = host.cluster or None
        self._chance = chance
        self.trouble: Unreached | None = None
        self.since: float | None = None
        self._link: Link | None = None
        self._attempt: asyncio.Task[Link] | None = None
        self._refused_at = float("-inf")
        self._opened = asyncio.Event()
        self._session_pause = SessionPause()

    @property
    def link(self) -> Link | None:
        """The connection that is open now, if any."""
        return self._link if self._link is not None and self._link.alive else None

    def _serves_as(self, host: Host) -> bool:
        """Tell whether the connection is open, and its host agent the one that these settings ask for."""
        return self.link is not None and not self.link.handshake.fault(host)

    async def _connected(self) -> Link:
        """Return the open connection. Requests that wait for one share one attempt and its failure."""
        if self._link is not None and self._link.alive:
            return self._link
        return await asyncio.shield(self.try_again())

    @property
    def is_down(self) -> bool:
        """Whether the last attempt to connect is known to have failed."""
        return self.link is None and self.trouble is not None

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
        if self.trouble and time.monotonic() - self._refused_at < AUTH_PAUSE:
            raise self.trouble
        try:
            link = await open_link(self.host, self._session_pause)
        except Unreached as error:
            if error.cause == "key-not-accepted":
                self._refused_at = time.monotonic()
            self._set_trouble(error)
            raise
        self._opened.set()
        link.handshaking.add_done_callback(lambda _: self._end_of_handshake(link))
        return link

    def _end_of_handshake(self, link: Link) -> None:
        """Say that the connection is up: until the host agent has said what it is, that would be a guess."""
        self.node = self.host.node or link.handshake.node or self.node
        self.hear_cluster(link.handshake.cluster)
        if link.alive:
            self._set_trouble(None)

    def hear_cluster(self, name: object) -> None:
        """Keep the name of the host's cluster, if it is one."""
        if isinstance(name, str):
            self.cluster = name[:200]

    def _set_trouble(self, trouble: Unreached | None) -> None:
        if self.since is None or (trouble and trouble.cause) != (self.trouble and self.trouble.cause):
            self.since = time.time()
        self.trouble = trouble

    async def _wait_until_opened(self, seconds: float) -> None:
        """Return once a request has opened the connection, or after so many seconds."""
        self._opened.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._opened.wait(), seconds)

    async def _watch(self, link: Link) -> None:
        """Return once the connection has ended. A host agent that was too busy to say what it is, is asked again."""
        while True:
            with suppress(TimeoutError):
                return await asyncio.wait_for(link.conn.wait_closed(), LOOK_SECONDS)
            with suppress(Unreached):  # it is another node still, as the state says
                await link.prepare(until_heard=True)
            await link.answers(NEWS_SECONDS)
            self._end_of_handshake(link)

    async def keep_open(self, pause: float = 0.0) -> None:
        """Keep the connection open until cancelled, so that it is ready before it is needed. No request pauses."""
        failures = refusals = 0
        await asyncio.sleep(pause)
        while True:
            try:
                link = await self._connected()
                failures = refusals = 0
                await self._watch(link)
                self._set_trouble(Unreached(CLOSED, f"the connection to {self.host.ssh} was lost", "wait a moment"))
            except Unreached as error:
                failures += 1
                if error.cause == "key-not-accepted":
                    refusals += 1
                    await self._wait_until_opened(refusal_seconds(refusals, self._chance()))
                    continue
            except Exception as error:  # a defect of the handler must not end the reconnecting
                failures += 1
                audit.note("keep-open-failed", host=self.host.name, error=repr(error))
            await asyncio.sleep(backoff_seconds(failures, self._chance()) if failures else REOPEN_SECONDS)
