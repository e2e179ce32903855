"""Stores turns under sessions.dir.

`turns/` has the event logs, for the handler alone; `locks/` has one lock a session; `work/` has a directory for each
turn that runs. All of it blocks, so only threads of `threads.py` call it.

A turn is claimed by a rename onto its name: of two replicas one wins, and a turn that is visible is complete. Claude's
own directories lie beside these. They are removed once no valid token can continue their session.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..claude.eventlog import append_events, try_lock
from ..claude.events import Event
from .errors import SessionsUnwritable
from .sessions import LIFETIME

KEEP_SECONDS = 24 * 3600.0
PRUNE_SECONDS = 600.0
ROOM_BYTES = 16 * 1024 * 1024


class Store:
    """The turns of one sessions.dir, which other replicas may share."""

    def __init__(self, directory: str) -> None:
        self._root = Path(directory).absolute()
        self._turns, self._locks, self._work = (self._root / name for name in ("turns", "locks", "work"))
        self._pruned = 0.0

    def turn_dir(self, caller: str, turn: str) -> Path:
        """Return the directory of a turn. Each caller has ids of its own."""
        return self._turns / hashlib.sha256(f"{caller}\n{turn}".encode()).hexdigest()[:32]

    def ready(self) -> None:
        """Make the directories. Raises SessionsUnwritable when a turn could not be saved there."""
        try:
            self._root.mkdir(0o711, parents=True, exist_ok=True)
            for directory, mode in ((self._turns, 0o700), (self._locks, 0o700), (self._work, 0o711)):
                directory.mkdir(mode, exist_ok=True)
            disk = os.statvfs(self._root)
        except OSError as error:
            raise _unwritable(error) from None
        if disk.f_bavail * disk.f_frsize < ROOM_BYTES:
            raise SessionsUnwritable(f"sessions.dir has less than {ROOM_BYTES >> 20} MiB left", "free space there")

    def claim(self, turn_dir: Path, metadata: dict[str, str], first: Event) -> int | None:
        """Return the locked descriptor of a new turn's log, or None when the turn exists already."""
        if turn_dir.exists():
            return None
        self.ready()
        try:
            return self._claim(turn_dir, metadata, first)
        except OSError as error:
            raise _unwritable(error) from None

    def _claim(self, turn_dir: Path, metadata: dict[str, str], first: Event) -> int | None:
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=self._turns))
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

    def metadata(self, turn_dir: Path) -> dict[str, str] | None:
        """Return the metadata of a turn, or None when there is no such turn."""
        try:
            found = json.loads((turn_dir / "about.json").read_text())
        except FileNotFoundError:
            return None
        return {str(key): str(value) for key, value in found.items()}

    def cancel(self, turn_dir: Path) -> None:
        """Ask the runner of a turn, which may be another replica's, to stop it."""
        (turn_dir / "cancel").touch(0o600)

    def lock(self, sid: str) -> int | None:
        """Return the locked descriptor of a session, or None when a turn of it runs on some replica."""
        path = self._locks / sid
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.utime(fd)
                if os.fstat(fd).st_nlink:  # it was not pruned in between
                    return fd
            except BlockingIOError:
                os.close(fd)
                return None
            os.close(fd)

    def proposals(self, sid: str) -> list[dict[str, str]]:
        """Return the verb and job of each proposal of a session whose outcome claude does not know yet."""
        try:
            saved = json.loads((self._locks / sid).read_text())
            with (self._turns / saved["turn"] / "log").open("rb") as log:
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
        """Make the directory of a turn's process and return it."""
        path = self._work / turn_dir.name
        path.mkdir(0o700)
        return path

    def tidy(self, turn_dir: Path) -> None:
        """Remove the directory of a turn's process."""
        shutil.rmtree(self._work / turn_dir.name, ignore_errors=True)

    def prune(self) -> None:
        """Remove turns and locks that are a day old and not in use; at most once in PRUNE_SECONDS."""
        now = time.time()
        if now - self._pruned < PRUNE_SECONDS:
            return
        self._pruned = now
        for turn_dir in self._turns.iterdir():
            if _idle(turn_dir / "log", now):
                shutil.rmtree(turn_dir, ignore_errors=True)
                self.tidy(turn_dir)
        for lock in self._locks.iterdir():
            if _idle(lock, now):
                lock.unlink(missing_ok=True)
        for transcripts in (self._root / "claude").glob("*-*-*-*-*"):
            newest = max(each.lstat().st_mtime for each in (transcripts, *transcripts.rglob("*")))
            if now - newest > LIFETIME:  # every token for it has expired
                shutil.rmtree(transcripts, ignore_errors=True)


def _idle(path: Path, now: float) -> bool:
    """Tell whether a file is unlocked and was not written to for a day."""
    try:
        if now - path.stat().st_mtime < KEEP_SECONDS:
            return False
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return now - path.parent.stat().st_mtime > KEEP_SECONDS
    try:
        return try_lock(fd)
    finally:
        os.close(fd)


def _unwritable(error: OSError) -> SessionsUnwritable:
    return SessionsUnwritable(f"the turn was not started, because it could not be saved: {error}", "check sessions.dir")
