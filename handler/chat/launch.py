"""Starts a turn's runner, and holds the handler's end of its socket."""

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..claude.eventlog import append_events, build_ending
from ..claude.events import Event
from ..claude.runner import CANCEL, STOP
from ..claude.start import TurnFds, start_turn
from ..config.model import ChatSettings
from .launcher import LauncherClient, Waitable
from .store import Store
from .turn_requests import TurnRequest

# --- One turn whose runner this handler started: the handler's end of the runner's socket ---


class RunningTurn:
    """A turn under way.

    `changed` is set, and replaced, when the log grows or the runner ends. `collected` is set once the runner has ended
    and its log is complete. `on_end` is called when the runner has closed its socket.
    """

    def __init__(
        self,
        caller: str,
        metadata: dict[str, str],
        process: Waitable,
        control: socket.socket,
        on_end: Callable[[], object],
    ) -> None:
        self.caller = caller
        self.metadata = metadata
        self.process = process
        self.changed = asyncio.Event()
        self.collected = asyncio.Event()
        self._control = control
        self._on_end = on_end
        control.setblocking(False)
        asyncio.get_running_loop().add_reader(control, self._read_control)

    def _read_control(self) -> None:
        try:
            data = self._control.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()
            self._on_end()
        self.notify()

    def notify(self) -> None:
        """Wake each reader of the log."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def stop(self) -> None:
        """End the turn quickly, because the handler is stopping."""
        self._send(STOP)

    def cancel(self) -> None:
        """End the turn on request. This needs no disk."""
        self._send(CANCEL)

    def _send(self, command: bytes) -> None:
        try:
            self._control.send(command)
        except OSError:  # the runner has ended
            pass


async def wait_for_change(changed: asyncio.Event | None, seconds: float) -> None:
    """Return when there may be something new to read: after `seconds`, where another handler writes it."""
    if changed is None:
        await asyncio.sleep(seconds)
        return
    try:
        async with asyncio.timeout(1.0):
            await changed.wait()
    except TimeoutError:
        pass


# --- Claims a turn, takes its session's lock and starts its runner ---
#
# All of it blocks, so it runs in a thread of `threads.py`. A failure is written to the turn's log, because a claimed
# turn needs an end.

_BUSY = ("busy", "another turn of this session is running", "wait for it or cancel it, then send with a new id")

_UNSAVED = "[From breakglass, not from the operator. Nothing that was said in this session before this was saved.]\n\n"

Started = tuple[Waitable, socket.socket]


def launch(
    settings: ChatSettings,
    store: Store,
    request: TurnRequest,
    turn_dir: Path,
    refusal: tuple[str, str, str] | None,
    launcher: LauncherClient | None,
) -> Started | str | None:
    """Claim a turn unless it exists, and start its runner or write why not.

    Return the runner, the code of a new turn's error, or None if the turn exists. Raises SessionsUnwritable.
    """
    first: Event = {"type": "session", "n": 1, "id": request.sid, "turn": request.turn, "resumed": request.resume}
    if refusal is None and request.resume and store.is_locked(request.sid):
        refusal = _BUSY
    if refusal is None or request.resume:  # a session that never began can't be continued
        first["session"] = request.token
    if refusal is not None:
        is_new = store.refuse(request.caller, turn_dir, request.metadata, [first, *build_ending(*refusal, 2)])
        return refusal[0] if is_new else None
    log = store.claim(turn_dir, request.record, first)
    return None if log is None else _launch(settings, store, request, turn_dir, log, launcher)


def _launch(
    settings: ChatSettings,
    store: Store,
    request: TurnRequest,
    turn_dir: Path,
    log: int,
    launcher: LauncherClient | None,
) -> Started | str:
    """Start the runner of a turn, or return the code of its error. Closes `log`, which the runner inherits."""
    lock = transcript = None
    try:
        lock = store.lock(request.sid)
        if lock is None:  # another turn of the session began in this moment
            append_events(log, build_ending(*_BUSY, 2))
            return _BUSY[0]
        store.save_proposals(lock, turn_dir, request.still_open)
        store.note_turn(turn_dir, request)
        transcript, is_unsaved = store.open_transcript(request.sid, not request.resume)
        if request.resume and is_unsaved:
            request = replace(request, resume=False, prompt=_UNSAVED + request.prompt)
        control, theirs = socket.socketpair()
        with theirs:
            fds = TurnFds(log, lock, theirs.fileno(), **transcript._asdict())
            if launcher is not None:
                return launcher.start_turn(turn_dir.name, request, fds), control
            work = store.make_work_dir(turn_dir)
            return start_turn(settings, request, work, turn_dir / "cancel", fds), control
    except Exception as error:  # a full disk, a missing user, a defect of ours
        hint = "check [chat] and the log; the power verbs don't need claude"
        with contextlib.suppress(OSError):  # each reader of the log tries to write an ending, too
            append_events(log, build_ending("claude-crashed", f"the turn could not be started: {error!r}", hint, 2))
        for fd in (log, lock):
            if fd is not None:  # a launcher that hangs has copies of them
                fcntl.flock(fd, fcntl.LOCK_UN)
        return "claude-crashed"
    finally:
        if transcript is not None:
            transcript.close()
        for fd in (log, lock):
            if fd is not None:
                os.close(fd)
