"""Turns: begun once, run by a process of their own, watched by reading their log.

`command.py` decides how claude runs, and the route decides who may chat. A client only reads a file, so a slow client
delays no other, and another replica can serve it as well.
"""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..auth.signing import Signed
from ..claude.command import TurnRequest
from ..claude.eventlog import Reader, ending, finish, read_on
from ..claude.events import encoded
from ..claude.runner import CANCEL, STOP
from ..config.model import ChatSettings, Vm
from ..errors import BreakglassError, IdReused, SessionsUnwritable
from .launch import Started, launch
from .proposals import Read
from .request import ChatRequest
from .sessions_disk import SessionsDisk
from .store import Store
from .turn_requests import build_turn_request, prepend_outcomes

Words = tuple[str, str, str]  # code, message, hint of an `error` event

PING_SECONDS = 8.0  # at least every 10 s of silence; proxies cut silent streams
POLL_SECONDS = 0.08  # how often a log is looked at that another replica writes
DEAD_SECONDS = 1.0  # a log that has not grown for so long: is its writer alive?
ROOM_SECONDS = 0.3
STOP_SECONDS = 4.0  # a stream ends at most so long after a SIGTERM

T = TypeVar("T")

_KILLED = ("claude-crashed", "the turn was cut off: its own runner or the handler was killed", "continue the session")
_STOPPING = ("shutting-down", "this handler is stopping; the turn is not", "attach to it again in a moment")
_UNREADABLE = ("claude-crashed", "the turn's events can't be read: sessions.dir does not answer", "attach to it again")


class Running:
    """A turn whose runner this handler started. `news` is set, and replaced, when the log grows or the runner ends."""

    def __init__(
        self,
        metadata: dict[str, str],
        process: subprocess.Popen[bytes],
        control: socket.socket,
        on_end: Callable[[], object],
    ) -> None:
        self.metadata = metadata
        self.process = process
        self.news = asyncio.Event()
        self.over = asyncio.Event()
        self._control = control
        self._on_end = on_end
        control.setblocking(False)
        asyncio.get_running_loop().add_reader(control, self._read_control)

    def _read_control(self) -> None:
        try:
            word = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if not word:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._on_end()
        self.notify()

    def notify(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()

    def stop(self) -> None:
        """End the turn quickly, because the handler is stopping."""
        self._send(STOP)

    def cancel(self) -> None:
        """End the turn on request. This needs no disk."""
        self._send(CANCEL)

    def _send(self, word: bytes) -> None:
        try:
            self._control.send(word)
        except OSError:  # the runner has ended
            pass


class Chat:
    """The turns of this handler; `use` gives it the settings in force."""

    def __init__(self, settings: ChatSettings, disk: SessionsDisk) -> None:
        self.running: dict[Path, Running] = {}
        self.disk = disk
        self._starting = 0
        self._tasks: set[asyncio.Task[object]] = set()
        self._stop_at: float | None = None
        self.use(settings)

    def use(self, settings: ChatSettings) -> None:
        """Begin further turns by these settings."""
        self.settings = settings
        self.store = Store(settings.sessions_dir)

    async def prepare(self) -> None:
        """Make the directories, so that it can be tried who reaches them; where that fails, each turn will say so."""
        try:
            await self.disk.run(self.store.ready)
        except BreakglassError:
            pass

    def build_request(
        self, body: ChatRequest, signed: Signed, keys: Sequence[str], now: float, choose_vm: Callable[[str], Vm]
    ) -> TurnRequest:
        """Return the turn that a body asks for; raise SessionInvalid, and what `choose_vm` raises."""
        return build_turn_request(body, signed, keys, now, choose_vm)

    async def request(self, request: TurnRequest, read: Read) -> Path:
        """Begin a turn, or find the one that has its id; return its directory. Raises IdReused, SessionsUnwritable.

        `read` asks the VM's host what became of the session's proposals.
        """
        turn_dir = self.store.turn_dir(request.caller, request.turn)
        if request.resume and await self.metadata(turn_dir) is None:
            proposals = await self._read(self.store.proposals, request.sid)
            request = await prepend_outcomes(request, read, proposals)
        turn_dir = await self.begin(request)
        metadata = await self.metadata(turn_dir)
        if metadata is not None and metadata["digest"] != request.digest:
            raise IdReused("this id already belongs to another turn", "use a new id", reached=False)
        return turn_dir

    async def begin(self, request: TurnRequest) -> Path:
        """Begin a turn, unless it was begun before; return its directory. Raises SessionsUnwritable."""
        return await asyncio.shield(self._track(self._begin(request, self.store)))

    async def _begin(self, request: TurnRequest, store: Store) -> Path:
        turn_dir = store.turn_dir(request.caller, request.turn)
        await self._room()
        refusal = self._refusal()
        self._starting += 1
        try:  # one call, so that one that is given up leaves no turn half begun
            add = partial(self._add, store, turn_dir, request.metadata)
            call = self.disk.run(
                launch, self.settings, store, request, turn_dir, refusal, late=partial(add, too_late=True)
            )
            add(await call)
        finally:
            self._starting -= 1
        self.disk.later(store.prune)
        return turn_dir

    def _add(
        self,
        store: Store,
        turn_dir: Path,
        metadata: dict[str, str],
        started: Started | None,
        too_late: bool = False,
    ) -> None:
        """Keep a runner. One that began too late is stopped: its caller was told that nothing was begun."""
        if started is not None:
            self.running[turn_dir] = Running(metadata, *started, lambda: self._track(self._collect(store, turn_dir)))
            if too_late:
                self.running[turn_dir].stop()

    async def _room(self) -> None:
        """Give a turn whose `done` was read already the moment that its process takes to end."""
        overs = [asyncio.ensure_future(running.over.wait()) for running in self.running.values()]
        if len(overs) + self._starting >= self.settings.max_turns_at_once and overs:
            await asyncio.wait(overs, timeout=ROOM_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for over in overs:
            over.cancel()

    def _refusal(self) -> Words | None:
        """Return why no further turn can be begun here, if so. It is final for its id, like any end of a turn."""
        if self._stop_at is not None:
            return "shutting-down", "this handler is stopping; the turn was not begun", "send it with a new id"
        most = self.settings.max_turns_at_once
        if len(self.running) + self._starting >= most:
            return "busy", f"this handler runs its {most} turns already", "send it with a new id in a moment"
        return None

    def _track(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _collect(self, store: Store, turn_dir: Path) -> None:
        """Collect a runner that has ended; where it was killed, write the ending that it could not."""
        running = self.running[turn_dir]
        try:
            await self.disk.run(running.process.wait)
            await self.disk.run(finish, str(turn_dir / "log"), *_KILLED)
            await self.disk.run(store.tidy, turn_dir)
        except (OSError, BreakglassError):  # whoever attaches tries again
            pass
        finally:
            del self.running[turn_dir]
            running.over.set()
            running.notify()

    async def stop(self) -> None:
        """End every turn of ours, and every stream."""
        if self._stop_at is None:
            self._stop_at = asyncio.get_running_loop().time() + STOP_SECONDS
        runnings = list(self.running.values())
        for running in runnings:
            running.stop()
        try:
            async with asyncio.timeout_at(self._stop_at):
                await asyncio.gather(*(running.over.wait() for running in runnings))
        except TimeoutError:  # the runner goes on without us, and writes the ending
            pass

    async def metadata(self, turn_dir: Path) -> dict[str, str] | None:
        """Return what is kept about a turn beside its events, or None when there is no such turn."""
        running = self.running.get(turn_dir)
        return running.metadata if running is not None else await self._read(self.store.metadata, turn_dir)

    async def cancel(self, turn_dir: Path) -> None:
        """Stop a turn, whichever replica runs it. One of this handler's stops even when sessions.dir hangs."""
        running = self.running.get(turn_dir)
        if running is not None:
            running.cancel()
        else:
            await self._read(self.store.cancel, turn_dir)

    async def _read(self, call: Callable[..., T], *arguments: object) -> T:
        """Return what a call to the store returns; raise SessionsUnwritable also for a broken disk."""
        try:
            return await self.disk.run(call, *arguments)
        except OSError as error:
            raise SessionsUnwritable(f"sessions.dir can't be used: {error}", "see that directory") from None

    # --- watching ---

    async def follow(self, turn_dir: Path, after: int) -> AsyncIterator[bytes]:
        """Yield a turn's lines from event `after` + 1 on, and pings while there are none; the last line is `done`."""
        reader = Reader(-1, after)
        try:
            async for lines in self._lines(turn_dir, reader):
                yield lines
        except (OSError, BreakglassError):
            yield _last(_UNREADABLE, max(reader.number, after))

    async def _lines(self, turn_dir: Path, reader: Reader) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        spoke = grew = clock()
        while not reader.ended:
            running = self.running.get(turn_dir)
            news = running.news if running is not None else None  # before the look, so that none is missed
            lines = await self.disk.run(read_on, str(turn_dir / "log"), reader)
            if lines:
                grew = spoke = clock()
                yield lines
                continue
            if self._stop_at is not None and (running is None or clock() > self._stop_at):
                yield _last(_STOPPING, reader.number)
                return
            if clock() - spoke > PING_SECONDS:
                spoke = clock()
                yield encoded({"type": "ping", "n": reader.number})
            await _wait(news)
            if running is None and clock() - grew > DEAD_SECONDS:
                grew = clock()
                await self.disk.run(finish, str(turn_dir / "log"), *_KILLED)


async def _wait(news: asyncio.Event | None) -> None:
    """Return when there may be something new to read."""
    if news is None:
        await asyncio.sleep(POLL_SECONDS)
        return
    try:
        async with asyncio.timeout(1.0):
            await news.wait()
    except TimeoutError:
        pass


def _last(error: Words, number: int) -> bytes:
    """Return the end of a stream that is not that of its turn, and so not in the log."""
    return b"".join(map(encoded, ending(*error, number + 1)))
