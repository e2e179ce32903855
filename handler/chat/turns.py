"""Starts each turn once, in its own process, and streams its events to clients.

The route decides who may chat. Clients read from the store, so a slow client delays no other client.
"""

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TypeVar

from ..auth.signing import Signed
from ..base import counts
from ..base.errors import BreakglassError, IdReused
from ..config.model import ChatSettings, Vm
from .database import Disk
from .events import Event
from .failures import KILLED, STOPPING, TurnError
from .job import encode_line
from .process import RunningTurn
from .proposals import Read, prepend_outcomes
from .request import ChatRequest, SessionInvalid, TurnRequest
from .store import Begun, Store, build_ending
from .tokens import LIFETIME, Session, seal, unseal

PING_SECONDS = 8.0  # below 10 s, because proxies cut streams that are silent for longer
STOP_SECONDS = 4.0  # a stream ends at most this long after SIGTERM

_BUSY = TurnError("busy", "another turn of this session is running", "wait until it has ended, then send with a new id")
_LAST_PLACE = TurnError(
    "busy",
    "you already have a turn, perhaps in another tab, and the last free place is kept for another caller",
    "wait until your turn has ended, then ask again",
)
_NOT_STARTED = TurnError("shutting-down", "the handler is stopping; the turn was not started", "ask again in a moment")
_UNREADABLE = TurnError(
    "claude-crashed",
    "the turn's events can't be read: sessions.dir does not answer",
    "attach to it again in a moment",
)

T = TypeVar("T")


class Chat:
    """The turns of this handler, in one sessions.dir. `path` is the socket at which systemd starts turns, or empty."""

    def __init__(self, settings: ChatSettings, disk: Disk, path: str = "") -> None:
        self.settings, self.disk, self.path = settings, disk, path
        self.store = Store(settings.sessions_dir)
        self.running: dict[bytes, RunningTurn] = {}
        self._starting: list[TurnRequest] = []
        self._tasks: set[asyncio.Task[object]] = set()
        self._prune_at = 0.0
        self._stop_at: float | None = None
        self.is_in_doubt = False  # whether a turn ended without an event, so that the sandboxes need a new probe

    @staticmethod
    def build(
        body: ChatRequest, signed: Signed, keys: Sequence[str], now: float, choose_vm: Callable[[str], Vm]
    ) -> TurnRequest:
        """Return the turn that a body requests. Raises SessionInvalid, and the errors of `choose_vm`.

        `choose_vm` returns the VM with a name, or the only VM if the name is empty, and checks that the caller may chat
        about it.
        """
        caller = signed.caller.name
        old = unseal(body.session, keys, caller, now) if body.session else None
        if old is not None and body.vm and body.vm != old.vm:
            raise SessionInvalid(f"the session is for another VM, {old.vm}", "begin a new conversation")
        vm = choose_vm(old.vm if old is not None else body.vm)
        sid = old.sid if old is not None else str(uuid.uuid4())
        parts = [f"{body.tools}:{body.vm}" if body.tools else body.vm, body.session, body.prompt]
        parts += [body.about] if body.about else []
        return TurnRequest(
            turn=signed.id,
            caller=caller,
            vm=vm,
            sid=sid,
            prompt=body.prompt,
            resume=old is not None,
            tools=body.tools,
            token=seal(Session(sid, caller, vm.name, int(now) + LIFETIME), keys),
            digest=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
        )

    async def open(self) -> None:
        """Open the store, or check that it can still be used. Raises SessionsUnwritable."""
        await self.disk.run(self.store.open, {*self.running, *(request.key for request in self._starting)})

    async def request(self, request: TurnRequest, read: Read) -> AsyncIterator[bytes]:
        """Start a turn unless its id has one, and return its lines. Raises IdReused, SessionsUnwritable.

        `read` asks the VM's host for the outcomes of the session's proposals and for claude's reads.
        """
        if request.resume and await self.disk.run(self.store.find, request.key) is None:
            proposals = await self.disk.run(self.store.proposals, request.sid)
            request = await prepend_outcomes(request, read, proposals)
        first, begun = await asyncio.shield(self._track(self._begin(request, read)))
        if begun.earlier is not None and begun.earlier.digest != request.digest:
            raise IdReused("this id already belongs to another turn", "use a new id")
        return _refuse(first, begun.refusal) if begun.refusal else self.follow(request.key, 0)

    async def _begin(self, request: TurnRequest, read: Read) -> tuple[Event, Begun]:
        refusal = self._find_refusal(request)
        first: Event = {"type": "session", "n": 1, "id": request.sid, "turn": request.turn, "resumed": request.resume}
        if refusal is None or request.resume:  # a session that never began can't be continued
            first["session"] = request.token
        self._starting.append(request)
        try:
            begun = await self.disk.run(self.store.begin, request, first, time.time(), refusal)
            if begun.refusal is not None:
                counts.in_use.add_turn(begun.refusal.code)
            elif begun.earlier is None:
                self._start(request, begun.transcript, read)
        finally:
            self._starting.remove(request)
        return first, begun

    def _start(self, request: TurnRequest, transcript: int, read: Read) -> None:
        def on_end() -> None:
            del self.running[request.key]
            self.is_in_doubt |= turn.said_nothing

        turn = RunningTurn(self.settings, request, transcript, self.path, read, on_end)
        self.running[request.key] = turn
        if self._stop_at is not None:
            turn.stop("shutting-down")
        self._track(turn.run(self.store, self.disk))
        self._track(self._prune())

    def _find_refusal(self, request: TurnRequest) -> TurnError | None:
        """Return why a caller can't start a turn now, or None. A refusal is not stored, so its id stays free.

        The last free place is kept for a caller without a turn, so that one caller can't take all of them.
        """
        most = self.settings.max_turns_at_once
        others = [*(turn.request for turn in self.running.values()), *self._starting]
        if self._stop_at is not None:
            return _NOT_STARTED
        if request.sid in [other.sid for other in others]:
            return _BUSY
        if len(others) >= most:
            return TurnError("busy", f"{most} turns run already, which is the limit", "ask again in a moment")
        if len(others) == most - 1 and request.caller in [other.caller for other in others]:
            return _LAST_PLACE
        return None

    def _track(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _prune(self) -> None:
        """Remove items that are too old or over a limit, one by one. Runs at most every ten minutes."""
        if (now := time.time()) < self._prune_at:
            return
        self._prune_at = now + 600.0
        try:
            while await self.disk.run(self.store.prune, now):
                pass
        except BreakglassError:  # the next turn tries to prune again
            self._prune_at = 0.0

    async def stop(self) -> None:
        """End every turn of this handler, and every stream."""
        if self._stop_at is None:
            self._stop_at = asyncio.get_running_loop().time() + STOP_SECONDS
        for turn in self.running.values():
            turn.stop("shutting-down")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0, self._stop_at - asyncio.get_running_loop().time()))

    def cancel(self, key: bytes) -> None:
        """Stop a turn if it is running. This needs no disk."""
        if key in self.running:
            self.running[key].stop("cancelled")

    # --- watching ---

    async def follow(self, key: bytes, after: int) -> AsyncIterator[bytes]:
        """Yield a turn's lines after event `after`, and pings during silence. The last line is `done`."""
        clock = asyncio.get_running_loop().time
        number, sent_at, has_ended, watched = after, clock(), False, self.running.get(key)
        while not has_ended:
            running = self.running.get(key)
            changed = running.changed if running is not None else None  # before the read, so that no change is missed
            try:
                lines, number, has_ended = await self.disk.run(self.store.read, key, number)
            except BreakglassError:
                yield _encode_ending(_UNREADABLE, number)
                return
            if lines:
                yield lines
                sent_at = clock()
            elif changed is None or (self._stop_at is not None and clock() > self._stop_at):
                killed = watched.unsaved if watched is not None else KILLED
                yield _encode_ending(killed if self._stop_at is None else STOPPING, number)
                return
            elif clock() - sent_at > PING_SECONDS:
                sent_at = clock()
                yield encode_line({"type": "ping", "n": number})
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), 1.0)


async def _refuse(first: Event, why: TurnError) -> AsyncIterator[bytes]:
    """Yield the lines of a turn that did not begin."""
    yield encode_line(first) + _encode_ending(why, 1)


def _encode_ending(failure: TurnError, number: int) -> bytes:
    """Return the last lines of a stream whose turn has no end in the store."""
    return b"".join(line for _, line in build_ending(failure, number + 1))
