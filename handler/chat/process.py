"""One turn as the handler sees it: a stream socket to the turn's program, with the protocol of job.py.

Nothing that a turn sends is trusted. Each line is checked (output.py), and an invalid line ends the turn. The event
loop is never blocked for long, because lines are read in pieces, have a bounded number of parts, and only the disk's
thread touches files.
"""

import asyncio
import contextlib
from collections.abc import Callable

from ..base import counts
from ..base.framer import Framer
from ..base.reasons import reason
from ..config.model import ChatSettings
from .brief import list_verbs
from .database import Disk
from .failures import KILLED, UNSAVED, TurnError, describe_stop
from .job import LINE_BYTES, Opening, encode_line, encode_opening
from .output import Misbehavior, TurnOutput
from .program import READ_BYTES, RESTART, build_job, find_program, open_channel
from .proposals import Read
from .reads import PveReads
from .request import SessionsUnwritable, TurnRequest
from .store import Store, build_ending

# how long the program may take to stop before the handler kills the turn
STOP_SECONDS = {"cancelled": 15.0, "shutting-down": 2.5}
LATE_SECONDS = 30.0  # later than turn_seconds, at which the program ends the turn itself


class RunningTurn:
    """A turn under way.

    `changed` is set, and replaced, when there are new events. `on_end` is called right before the last events are
    stored, because from then on the turn takes no place. `unsaved` is the end that a reader gets if the end could not
    be stored.
    """

    def __init__(
        self,
        settings: ChatSettings,
        request: TurnRequest,
        transcript: int,
        path: str,
        read: Read,
        on_end: Callable[[], object],
    ) -> None:
        self.request = request
        self.changed = asyncio.Event()
        self.unsaved = KILLED
        self._settings, self._transcript, self._path, self._on_end = settings, transcript, path, on_end
        self._writer: asyncio.StreamWriter | None = None
        self._deadline: asyncio.Timeout | None = None
        self._why = ""  # why the turn was stopped
        self._stored = 1  # number of the last stored event
        verbs = list_verbs(request.tools)
        self._reads = PveReads(read, request.vm.vmid, verbs, self._send, self._drain)
        self._output = TurnOutput(request.vm.name, verbs, transcript, self._reads.begin, lambda: self._reads.last)

    @property
    def said_nothing(self) -> bool:
        """Whether the turn has sent no event although it was not stopped."""
        return self._output.number == 2 and not self._output.last and not self._why

    def stop(self, why: str) -> None:
        """Tell the program to stop the turn. `why` is `cancelled` or `shutting-down`. This needs no disk."""
        if why == self._why:
            return
        self._why = why
        self._send(encode_line({"stop": why}))
        if self._deadline is not None:
            with contextlib.suppress(RuntimeError):  # the deadline has already passed
                self._deadline.reschedule(asyncio.get_running_loop().time() + STOP_SECONDS[why])

    def _send(self, line: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(line)

    async def _drain(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(ConnectionError):  # the turn has ended
                await self._writer.drain()

    async def run(self, store: Store, disk: Disk) -> None:
        """Run the turn to its end, and store what it sends. Raises only CancelledError."""
        ending: TurnError | None = KILLED
        try:
            seconds = STOP_SECONDS.get(self._why, self._settings.turn_seconds + LATE_SECONDS)
            async with asyncio.timeout(seconds) as self._deadline:
                await self._exchange(store, disk)
            ending = None if self._output.last else self._explain_end()
        except TimeoutError:
            ending = None if self._output.last else self._explain_end("turn-timeout")
        except Misbehavior as error:
            ending = KILLED._replace(message=f"the turn was stopped, because {error}")
        except SessionsUnwritable:
            ending = UNSAVED
        except Exception as error:  # for example no program, no memory, or a defect of the handler
            hint = RESTART if self._path else "run breakglass doctor; the power verbs don't need claude"
            ending = TurnError("claude-crashed", f"the turn could not be started: {reason(error)}", hint)
        finally:
            self._writer = self._deadline = None
            self._reads.close()
            await self._save_end(store, disk, ending)

    def _explain_end(self, stopped: str = "") -> TurnError:
        """Return why the turn did not end by itself."""
        why = self._why or stopped
        return describe_stop(why, self._settings.turn_seconds) if why else KILLED

    async def _save_end(self, store: Store, disk: Disk, ending: TurnError | None) -> None:
        output, batch = self._output, self._output.pop()
        number = batch.events[-1][0] if batch.events else self._stored
        last = output.last if ending is None else build_ending(ending, number + 1)
        code = ending.code if ending else output.code
        # before any await, so that a client that has read the end can start the next turn
        self._on_end()
        counts.in_use.add_turn(code, output.tokens, output.cost)
        try:
            batch = batch._replace(events=[*batch.events, *last])
            await disk.run(store.add, self.request.key, self.request.sid, batch, code, output.cost)
        except SessionsUnwritable:  # the store will write the end when the disk can be written again
            self.unsaved = UNSAVED
        self._notify()

    def _notify(self) -> None:
        """Wake each reader of the turn."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def _exchange(self, store: Store, disk: Disk) -> None:
        program = await disk.run(find_program, self._settings)
        job = await disk.run(build_job, self._settings, self.request, self._transcript)
        if self._why:  # the handler is stopping, so it starts no turn
            return
        async with open_channel(self._path) as (reader, writer):
            with contextlib.suppress(ConnectionError):  # the program has ended, for whatever reason
                writer.write(encode_opening(Opening(program, transcript=self._transcript), job))
                await self._send_transcript(store, disk, writer)
                self._writer = writer
                if self._why:
                    self._send(encode_line({"stop": self._why}))
                await self._receive(reader, store, disk)

    async def _send_transcript(self, store: Store, disk: Disk, writer: asyncio.StreamWriter) -> None:
        at = 0
        while at < self._transcript:
            piece = await disk.run(store.piece, self.request.sid, at)
            if not piece:
                raise SessionsUnwritable("a piece of the transcript is gone", "begin a new conversation")
            writer.write(piece)
            at += len(piece)
            await writer.drain()

    async def _receive(self, reader: asyncio.StreamReader, store: Store, disk: Disk) -> None:
        """Read what the turn sends until its last event, and store it piece by piece."""
        framer = Framer(LINE_BYTES)
        while not self._output.last and (piece := await reader.read(READ_BYTES)):
            for line in framer.feed(piece):
                self._output.take(line)
                if line is not None and len(line) > READ_BYTES:
                    await asyncio.sleep(0)
            if framer.is_too_long:
                self._output.take(None)
            batch = self._output.pop()
            if any(batch):
                await disk.run(store.add, self.request.key, self.request.sid, batch)
                self._stored = self._output.number - 1
                self._notify()
            await asyncio.sleep(0)
