"""Starts each turn once, in a process of its own, and streams its log to clients.

`command.py` decides how claude runs, and the route decides who may chat. A client only reads a file, so a slow client
delays no other, and another replica can serve the same turn.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..auth.signing import Signed
from ..base import counts
from ..base.errors import BreakglassError, IdReused
from ..claude.directory_id import find_directory_id
from ..claude.eventlog import Reader, finish_log, read_more
from ..claude.events import encode_event
from ..config.model import ChatSettings, Vm
from .ended_turns import KILLED, LAST_PLACE, STOPPING, UNREADABLE, ErrorText, encode_ending, finish_turn
from .launch import RunningTurn, Started, launch, wait_for_change
from .launcher import LauncherClient
from .refusals import read_refusal
from .replay import ConversationReader
from .request import ChatRequest
from .sessions import Session, check_directory, unseal
from .sessions_dir import SessionsDisk
from .store import Store
from .turn_requests import Read, TurnRequest, build_turn_request, prepend_outcomes

PING_SECONDS = 8.0  # at least every 10 s of silence; proxies cut silent streams
POLL_SECONDS = 0.08  # how often a log is looked at that another replica writes
DEAD_SECONDS = 1.0  # once a log has not grown for so long, check whether its writer is alive
ROOM_SECONDS = 0.3
STOP_SECONDS = 4.0  # a stream ends at most so long after a SIGTERM

T = TypeVar("T")


class Chat:
    """The turns of this handler, under the settings that `use` was last given."""

    def __init__(self, settings: ChatSettings, disk: SessionsDisk, launcher: LauncherClient | None = None) -> None:
        self.running: dict[Path, RunningTurn] = {}
        self.disk = disk
        self._launcher = launcher
        self._starting: list[str] = []  # callers
        self._tasks: set[asyncio.Task[object]] = set()
        self._stop_at: float | None = None
        self.use(settings)

    def use(self, settings: ChatSettings) -> None:
        """Start further turns with these settings."""
        self.settings = settings
        self.store = Store(settings.sessions_dir, self._launcher.remove if self._launcher else None)

    async def prepare(self) -> None:
        """Make the directories, so that the check of their isolation has something to check.

        If that fails, each turn reports it.
        """
        try:
            await self.disk.run(self.store.ready)
            await self._directory_id()
        except BreakglassError:
            pass

    async def build_request(
        self, body: ChatRequest, signed: Signed, keys: Sequence[str], now: float, choose_vm: Callable[[str], Vm]
    ) -> TurnRequest:
        """Return the turn that a body asks for. Raises as `build_turn_request` does, and SessionsUnwritable."""
        return await build_turn_request(body, signed, keys, now, choose_vm, self._directory_id)

    async def check_session(self, token: str, keys: Sequence[str], caller: str, now: float) -> Session:
        """Return a token's session, which is here. Raises SessionElsewhere, SessionInvalid, SessionsUnwritable."""
        session = unseal(token, keys, caller, now)
        check_directory(session, await self._directory_id())
        return session

    async def open_replay(self, caller: str, keys: Sequence[str]) -> ConversationReader:
        """Return a caller's conversations; `keys` sign their tokens. Raises SessionsUnwritable."""
        return ConversationReader(self.store, self.disk, caller, keys, await self._directory_id())

    async def _directory_id(self) -> str:
        return await self.disk.run(find_directory_id, self.settings.sessions_dir)

    async def request(self, request: TurnRequest, read: Read) -> Path:
        """Start a turn, or find the one that has its id; return its directory.

        `read` asks the VM's host what became of the session's proposals. Raises IdReused, SessionsUnwritable.
        """
        turn_dir = self.store.turn_dir(request.caller, request.turn)
        if request.resume and await self.metadata(turn_dir) is None:
            proposals = await self.disk.read(self.store.proposals, request.sid)
            request = await prepend_outcomes(request, read, proposals)
        turn_dir = await self.begin(request)
        metadata = await self.metadata(turn_dir)
        if metadata is not None and metadata["digest"] != request.digest:
            raise IdReused("this id already belongs to another turn", "use a new id")
        return turn_dir

    async def begin(self, request: TurnRequest) -> Path:
        """Start a turn unless it exists; return its directory. Raises SessionsUnwritable."""
        return await asyncio.shield(self._track(self._begin(request, self.store)))

    async def _begin(self, request: TurnRequest, store: Store) -> Path:
        turn_dir = store.turn_dir(request.caller, request.turn)
        await self._wait_for_room(request.caller)
        refusal = self._find_refusal(request.caller)
        self._starting.append(request.caller)
        try:  # one call, so that a call that is given up leaves no turn half started
            add = partial(self._add, store, turn_dir, request)
            begin = partial(launch, self.settings, store, request, turn_dir, refusal, self._launcher)
            call = self.disk.run(begin, on_late=partial(add, too_late=True))
            add(await call)
        finally:
            self._starting.remove(request.caller)
        self.disk.prune_later(store.prune)
        return turn_dir

    def _add(
        self,
        store: Store,
        turn_dir: Path,
        request: TurnRequest,
        started: Started | str | None,
        too_late: bool = False,
    ) -> None:
        """Register a runner. Stop one that started too late: its caller was told that the turn was not started."""
        if isinstance(started, str):
            counts.in_use.add_turn(started)
        elif started is not None:
            on_end = partial(self._start_collecting, store, turn_dir)
            self.running[turn_dir] = RunningTurn(request.caller, request.metadata, *started, on_end)
            if too_late:
                self.running[turn_dir].stop()

    async def _wait_for_room(self, caller: str) -> None:
        """Wait a moment while there is no place: a client may have read the end of a turn whose runner is ending."""
        until = asyncio.get_running_loop().time() + ROOM_SECONDS
        while self.running and self._find_refusal(caller) is not None:
            ends = [asyncio.ensure_future(running.collected.wait()) for running in self.running.values()]
            left = until - asyncio.get_running_loop().time()
            ended, _ = await asyncio.wait(ends, timeout=max(left, 0), return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
            if not ended:
                return

    def _find_refusal(self, caller: str) -> ErrorText | None:
        """Return why a caller can start no turn now, or None. The refusal is final for its id, like any end of a turn.

        The last free place is kept for a caller without a turn, so that one caller can't take all of them.
        """
        if self._stop_at is not None:
            return "shutting-down", "Breakglass is stopping here; the turn was not started", "ask again in a moment"
        most = self.settings.max_turns_at_once
        callers = [*(running.caller for running in self.running.values()), *self._starting]
        if len(callers) >= most:
            hint = "ask again in a moment"
            return "busy", f"{most} turns run already, and no more may", hint
        if len(callers) == most - 1 and caller in callers:
            return LAST_PLACE
        return None

    def _track(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _start_collecting(self, store: Store, turn_dir: Path) -> None:
        self._track(self._collect(store, turn_dir))

    async def _collect(self, store: Store, turn_dir: Path) -> None:
        """Collect a runner that has ended. If it was killed, write the ending that is missing."""
        running = self.running[turn_dir]
        try:
            await self.disk.run(running.process.wait)
            counts.in_use.add_turn(*await self.disk.run(finish_turn, str(turn_dir / "log")))
            if self._launcher is None:  # a launcher removes what it made by itself
                await self.disk.run(store.tidy, turn_dir)
        except (OSError, BreakglassError):  # the next client that attaches tries again
            pass
        finally:
            del self.running[turn_dir]
            running.collected.set()
            running.notify()

    async def stop(self) -> None:
        """End every turn of this handler, and every stream."""
        if self._stop_at is None:
            self._stop_at = asyncio.get_running_loop().time() + STOP_SECONDS
        runnings = list(self.running.values())
        for running in runnings:
            running.stop()
        try:
            async with asyncio.timeout_at(self._stop_at):
                await asyncio.gather(*(running.collected.wait() for running in runnings))
        except TimeoutError:  # the runner goes on alone and writes the ending
            pass

    async def metadata(self, turn_dir: Path) -> dict[str, str] | None:
        """Return the metadata of a turn, or None when there is no such turn."""
        running = self.running.get(turn_dir)
        return running.metadata if running is not None else await self.disk.read(self.store.metadata, turn_dir)

    async def cancel(self, turn_dir: Path) -> None:
        """Stop a turn, whichever replica runs it. A turn of this handler stops even when sessions.dir hangs."""
        running = self.running.get(turn_dir)
        if running is not None:
            running.cancel()
        else:
            await self.disk.read(self.store.cancel, turn_dir)

    # --- watching ---

    async def follow(self, turn_dir: Path, after: int) -> AsyncIterator[bytes]:
        """Yield a turn's lines after event `after`, and pings while there are none; the last line is `done`."""
        reader = Reader(-1, after)
        try:
            refusal = await self.disk.run(read_refusal, turn_dir)
            if refusal is not None:
                yield b"".join(refusal[1][after:] or refusal[1][-1:])
                return
            async for lines in self._lines(turn_dir, reader):
                yield lines
        except (OSError, BreakglassError):
            yield encode_ending(UNREADABLE, max(reader.number, after))

    async def _lines(self, turn_dir: Path, reader: Reader) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        sent_at = grew_at = clock()
        while not reader.ended:
            running = self.running.get(turn_dir)
            changed = running.changed if running is not None else None  # before the read, so that no change is missed
            lines = await self.disk.run(read_more, str(turn_dir / "log"), reader)
            if lines:
                grew_at = sent_at = clock()
                yield lines
                continue
            if self._stop_at is not None and (running is None or clock() > self._stop_at):
                yield encode_ending(STOPPING, reader.number)
                return
            if clock() - sent_at > PING_SECONDS:
                sent_at = clock()
                yield encode_event({"type": "ping", "n": reader.number})
            await wait_for_change(changed, POLL_SECONDS)
            if running is None and clock() - grew_at > DEAD_SECONDS:
                grew_at = clock()
                await self.disk.run(finish_log, str(turn_dir / "log"), *KILLED)
