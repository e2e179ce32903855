"""Turns: begun once, run by a process of their own, watched by reading their log.

Decides nothing about claude: that is `command.py`; nothing about who may: that is the route. A client only ever reads a
file, so a slow or vanished one holds up nobody, and another replica can serve it as well.
"""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..claude.eventlog import Reader, ending, finish, read_on
from ..claude.events import encoded
from ..config.model import ChatSettings
from ..errors import BreakglassError, SessionsUnwritable
from ..threads import Disk
from .launch import Ask, Started, launch
from .store import Store

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
    """A turn whose runner is ours. `news` is set, and replaced, whenever the log has grown or the runner has ended."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, ended: Callable[[], object]) -> None:
        self.process = process
        self.news = asyncio.Event()
        self.over = asyncio.Event()
        self._control = control
        self._ended = ended
        control.setblocking(False)
        asyncio.get_running_loop().add_reader(control, self._heard)

    def _heard(self) -> None:
        try:
            word = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if not word:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._ended()
        self.tell()

    def tell(self) -> None:
        news, self.news = self.news, asyncio.Event()
        news.set()

    def stop(self) -> None:
        """Have the turn ended in a hurry, because the handler is stopping."""
        try:
            self._control.send(b"s")
        except OSError:
            pass


class Chat:
    """The turns of this handler; `use` gives it the settings in force."""

    def __init__(self, settings: ChatSettings, disk: Disk) -> None:
        self.running: dict[Path, Running] = {}
        self._disk = disk
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
            await self._disk.run(self.store.ready)
        except BreakglassError:
            pass

    async def begin(self, ask: Ask) -> Path:
        """Begin a turn, unless it was begun before; return its place. Raises SessionsUnwritable."""
        return await asyncio.shield(self._keep(self._begin(ask, self.store)))

    async def _begin(self, ask: Ask, store: Store) -> Path:
        place = store.place(ask.caller, ask.turn)
        await self._room()
        refusal = self._refusal()
        self._starting += 1
        try:  # one call, so that one that is given up leaves no turn half begun
            too_late = partial(self._run, store, place, stop=True)
            call = self._disk.run(launch, self.settings, store, ask, place, refusal, late=too_late)
            self._run(store, place, await call)
        finally:
            self._starting -= 1
        self._disk.later(store.prune)
        return place

    def _run(self, store: Store, place: Path, started: Started | None, stop: bool = False) -> None:
        """Keep a runner, or have it ended where the one who asked was told that nothing was begun."""
        if started is not None:
            self.running[place] = Running(*started, lambda: self._keep(self._ended(store, place)))
            if stop:
                self.running[place].stop()

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

    def _keep(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ended(self, store: Store, place: Path) -> None:
        """Collect a runner that has ended; where it was killed, write the ending that it could not."""
        running = self.running[place]
        try:
            await self._disk.run(running.process.wait)
            await self._disk.run(finish, str(place / "log"), *_KILLED)
            await self._disk.run(store.tidy, place)
        except (OSError, BreakglassError):  # whoever attaches tries again
            pass
        finally:
            del self.running[place]
            running.over.set()
            running.tell()

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

    async def proposals(self, sid: str) -> list[dict[str, str]]:
        """Return what a session's turns proposed and claude was not told the end of."""
        return await self._kept(self.store.proposals, sid)

    async def about(self, place: Path) -> dict[str, str] | None:
        """Return what a turn was begun with, or None when there is no such turn."""
        return await self._kept(self.store.about, place)

    async def cancel(self, place: Path) -> None:
        """Stop a turn, whichever replica runs it."""
        await self._kept(self.store.cancel, place)

    async def _kept(self, call: Callable[..., T], *arguments: object) -> T:
        """Return what was kept; a disk that is broken has its answer, too."""
        try:
            return await self._disk.run(call, *arguments)
        except OSError as error:
            raise SessionsUnwritable(f"sessions.dir can't be used: {error}", "see that directory") from None

    # --- watching ---

    async def follow(self, place: Path, after: int) -> AsyncIterator[bytes]:
        """Yield a turn's lines from event `after` + 1 on, and pings while there are none; the last line is `done`."""
        reader = Reader(-1, after)
        try:
            async for lines in self._lines(place, reader):
                yield lines
        except (OSError, BreakglassError):
            yield _last(_UNREADABLE, max(reader.number, after))

    async def _lines(self, place: Path, reader: Reader) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        spoke = grew = clock()
        while not reader.ended:
            running = self.running.get(place)
            news = running.news if running is not None else None  # before the look, so that none is missed
            lines = await self._disk.run(read_on, str(place / "log"), reader)
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
                await self._disk.run(finish, str(place / "log"), *_KILLED)


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
