"""Stores turns under sessions.dir.

`turns/` has the event logs, for the handler alone; `refused/` says whose refusals are among them; `locks/` has one lock
a session, `transcripts/` what claude knows of it, and `conversations/` which turns it had; `work/` has a directory for
each turn that runs. All of it blocks, so only threads of `threads.py` call it.

A turn is claimed by a rename onto its name: of two replicas one wins, and a turn that is visible is complete.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..base import audit
from ..claude.eventlog import append_events, try_lock
from ..claude.events import Event
from ..claude.homes import remove_directory
from .conversations import Conversation, find_conversation, list_conversations, note_turn
from .ended_turns import Directories, prune
from .refusals import read_refusal, save_refusal
from .request import SessionsUnwritable
from .sessions_dir import Transcript, open_transcript
from .turn_requests import TurnRequest

PRUNE_SECONDS = 600.0
LOOK_SECONDS = 0.02  # `is_locked` has a lock for less
ROOM_BYTES = 16 * 1024 * 1024
REMOVAL_SECONDS = 3.0


class Store:
    """The turns of one sessions.dir, which other replicas may share.

    With `remove`, which raises OSError, another process makes and removes the directories in `work/`.
    """

    def __init__(self, directory: str, remove: Callable[[str], None] | None = None) -> None:
        self._remove_for_us = remove
        self._root = Path(directory).absolute()
        self._directories = Directories(*(self._root / name for name in Directories._fields))
        self._pruned = 0.0

    def turn_dir(self, caller: str, turn: str) -> Path:
        """Return the directory of a turn. Each caller has ids of its own."""
        return self._directories.turns / hashlib.sha256(f"{caller}\n{turn}".encode()).hexdigest()[:32]

    def ready(self) -> None:
        """Make the directories. Raises SessionsUnwritable when a turn could not be saved there."""
        try:
            self._root.mkdir(0o711, parents=True, exist_ok=True)
            for directory in self._directories:
                directory.mkdir(0o711 if directory == self._directories.work else 0o700, exist_ok=True)
            disk = os.statvfs(self._root)
        except OSError as error:
            raise _unwritable(error) from None
        if disk.f_bavail * disk.f_frsize < ROOM_BYTES:
            raise SessionsUnwritable(f"sessions.dir has less than {ROOM_BYTES >> 20} MiB left", "free space there")

    def claim(self, turn_dir: Path, metadata: dict[str, str], first: Event) -> int | None:
        """Return the locked descriptor of a new turn's log, or None when the turn exists already."""
        try:
            if turn_dir.exists():
                return None
            self.ready()
            return self._claim(turn_dir, metadata, first)
        except OSError as error:
            raise _unwritable(error) from None

    def _claim(self, turn_dir: Path, metadata: dict[str, str], first: Event) -> int | None:
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=self._directories.turns))
        log = os.open(new / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            try_lock(log)
            (new / "about.json").write_text(json.dumps(metadata))
            append_events(log, [first])
            new.rename(turn_dir)
        except BaseException as error:
            os.close(log)
            shutil.rmtree(new, ignore_errors=True)
            if isinstance(error, OSError) and turn_dir.exists():  # another replica was first
                return None
            raise
        return log

    def refuse(self, caller: str, turn_dir: Path, metadata: dict[str, str], events: Sequence[Event]) -> bool:
        """Write the end of a turn that is not started, unless it exists; tell whether. Raises SessionsUnwritable."""
        self.ready()
        try:
            return save_refusal(self._directories.refused, caller, turn_dir, metadata, events)
        except OSError as error:
            raise _unwritable(error) from None

    def metadata(self, turn_dir: Path) -> dict[str, str] | None:
        """Return the metadata of a turn, or None when there is no such turn."""
        try:
            found = json.loads((turn_dir / "about.json").read_text())
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            refusal = read_refusal(turn_dir)
            return None if refusal is None else refusal[0]
        return {str(key): str(value) for key, value in found.items()}

    def cancel(self, turn_dir: Path) -> None:
        """Ask the runner of a turn, which may be another replica's, to stop it."""
        try:
            (turn_dir / "cancel").touch(0o600)
        except NotADirectoryError:
            if not turn_dir.is_file():  # it was not refused
                raise

    def lock(self, sid: str) -> int | None:
        """Return the locked descriptor of a session, or None when a turn of it runs on some replica."""
        path, tries = self._directories.locks / sid, 0
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.utime(fd)
                if os.fstat(fd).st_nlink:  # it was not pruned in between
                    return fd
            except BlockingIOError:
                tries += 1
            os.close(fd)
            if tries == 2:
                return None
            time.sleep(tries * LOOK_SECONDS)

    def is_locked(self, sid: str) -> bool:
        """Tell whether a turn of a session runs on some replica. Raises SessionsUnwritable."""
        try:
            fd = os.open(self._directories.locks / sid, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _unwritable(error) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def proposals(self, sid: str) -> list[dict[str, str]]:
        """Return the verb and job of each proposal of a session whose outcome claude does not know yet."""
        try:
            saved = json.loads((self._directories.locks / sid).read_text())
            with (self._directories.turns / saved["turn"] / "log").open("rb") as log:
                found = [json.loads(line) for line in log if line.startswith(b'{"type":"approval"')]
        except (OSError, ValueError, KeyError):  # a first turn, or one that was pruned
            return []
        return [*saved["open"], *({"verb": each["verb"], "job": each["job"]} for each in found)]

    def save_proposals(self, lock: int, turn_dir: Path, still_open: Sequence[Mapping[str, str]]) -> None:
        """Write into a session's lock which turn is its last, and which earlier proposals are open."""
        saved = {"turn": turn_dir.name, "open": [dict(each) for each in still_open]}
        os.ftruncate(lock, 0)
        os.pwrite(lock, json.dumps(saved).encode(), 0)

    def make_work_dir(self, turn_dir: Path) -> Path:
        """Make the directory of a turn's process and return it, as claude will call it: without a link or `..`."""
        path = Path(os.path.realpath(self._directories.work)) / turn_dir.name
        path.mkdir(0o700)
        return path

    def open_transcript(self, sid: str, is_first: bool) -> tuple[Transcript, bool]:
        """Open a session's transcript, for the turn that has its lock; tell if no turn of it was ever saved."""
        return open_transcript(self._directories.transcripts, sid, is_first)

    def tidy(self, turn_dir: Path) -> None:
        """Remove the directory of a turn's process. The runner removes what belongs to claude's user.

        What can't be removed now is removed by a later `prune`.
        """
        try:
            self._remove_work_dir(self._directories.work / turn_dir.name)
        except OSError as error:
            audit.note("not-removed", path=f"work/{turn_dir.name}", error=repr(error))

    def note_turn(self, turn_dir: Path, request: TurnRequest) -> None:
        """Add a turn, whose session this process has locked, to its caller's conversations. Raises OSError."""
        note_turn(self._directories.conversations, turn_dir.name, request, time.time())

    def list_conversations(
        self, caller: str, is_listed: Callable[[Conversation], bool] = lambda _: True
    ) -> list[Conversation]:
        """Return the newest conversations of a caller that `is_listed` lets through, the newest turn's first."""
        return list_conversations(self._directories.conversations, caller, is_listed)

    def find_conversation(self, caller: str, sid: str) -> Conversation | None:
        """Return one of a caller's conversations, or None if there is none with this id. Raises OSError."""
        return find_conversation(self._directories.conversations, caller, sid)

    def prune(self) -> None:
        """Remove what is not in use and old enough; at most once in PRUNE_SECONDS."""
        now = time.time()
        if now - self._pruned < PRUNE_SECONDS:
            return
        self._pruned = now
        prune(self._directories, self._remove_work_dir, now)

    def _remove_work_dir(self, path: Path) -> None:
        if self._remove_for_us is not None:
            self._remove_for_us(f"work/{path.name}")
        else:
            remove_directory(str(path), time.monotonic() + REMOVAL_SECONDS)


def _unwritable(error: OSError) -> SessionsUnwritable:
    return SessionsUnwritable(f"the turn was not started, because it could not be saved: {error}", "check sessions.dir")
