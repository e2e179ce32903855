"""The one SQLite file of sessions.dir, and the thread that uses it. Only one handler at a time can open the file.

Everything except `Disk` blocks. If the disk or the file fails, SessionsUnwritable is raised.
"""

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..base.threads import DaemonThreads
from .request import SessionsUnwritable

FILE = "chat.sqlite3"
SECONDS = 10.0  # for one call
ROOM_BYTES = 16 << 20
_DOCTOR = "run breakglass doctor, which says how to fix it"
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

# A turn without a `code` has not ended. The time of a conversation is the time of its last turn. The `proposals` of a
# conversation are those whose outcome claude does not know yet.
_SCHEMA = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA foreign_keys = ON;
CREATE TABLE IF NOT EXISTS conversation (
    sid TEXT PRIMARY KEY, caller TEXT NOT NULL, vm TEXT NOT NULL, words TEXT NOT NULL, at REAL NOT NULL,
    turns INTEGER NOT NULL, proposals TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS conversation_at ON conversation (caller, at);
CREATE TABLE IF NOT EXISTS turn (
    key BLOB PRIMARY KEY, caller TEXT NOT NULL, turn TEXT NOT NULL, sid TEXT REFERENCES conversation ON DELETE CASCADE,
    vm TEXT NOT NULL, digest TEXT NOT NULL, prompt TEXT NOT NULL, tools TEXT NOT NULL, at REAL NOT NULL,
    code TEXT, cost REAL NOT NULL DEFAULT 0, bytes INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS turn_of_session ON turn (sid, at);
CREATE INDEX IF NOT EXISTS turn_of_caller ON turn (caller, at, bytes);
CREATE TABLE IF NOT EXISTS event (
    key BLOB REFERENCES turn ON DELETE CASCADE, n INTEGER, line BLOB NOT NULL, PRIMARY KEY (key, n)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS piece (
    sid TEXT REFERENCES conversation ON DELETE CASCADE, at INTEGER, data BLOB NOT NULL, PRIMARY KEY (sid, at));
CREATE TABLE IF NOT EXISTS new_piece (
    sid TEXT REFERENCES conversation ON DELETE CASCADE, at INTEGER, data BLOB NOT NULL, PRIMARY KEY (sid, at));
"""


class Database:
    """The SQLite file of a directory. Only store.py reads and writes the rows."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory).absolute()
        self._path = self.directory / FILE
        self._db: sqlite3.Connection | None = None
        self._lock, self._inode = -1, 0
        self._is_damaged = False
        self._why = ("sessions.dir is not open", "try again in a moment")

    def reopen(self) -> None:
        """Open the file unless it is open. Raises SessionsUnwritable.

        Call it repeatedly, because it notices a full disk, and creates a new file if the old one was moved away.
        """
        with self._failures():
            if (self._db is not None or self._is_damaged) and not self._is_in_place():
                self.close()
            if self._is_damaged:
                raise SessionsUnwritable(*self._why)
            if self._db is None:
                self._connect()
            self.check_room()

    def close(self) -> None:
        """Close the file, and let another handler have it."""
        if self._db is not None:
            self._db.close()
        if self._lock >= 0:
            os.close(self._lock)
        self._db, self._lock, self._is_damaged = None, -1, False

    def _is_in_place(self) -> bool:
        try:
            return os.stat(self._path).st_ino == self._inode
        except FileNotFoundError:
            return False

    def _connect(self) -> None:
        self.directory.mkdir(0o700, parents=True, exist_ok=True)
        try:
            self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._inode = os.stat(self._path).st_ino
            self._db = sqlite3.connect(self._path, timeout=1.0, check_same_thread=False)
            self._db.executescript(_SCHEMA)
        except BaseException:
            self.close()
            raise

    def check_room(self) -> None:
        """Raise SessionsUnwritable unless there is room for a turn."""
        disk = os.statvfs(self.directory)
        if disk.f_bavail * disk.f_frsize < ROOM_BYTES:
            raise SessionsUnwritable(f"sessions.dir has less than {ROOM_BYTES >> 20} MiB left", "free space there")
        if not os.access(self._path, os.W_OK):
            raise SessionsUnwritable(f"{self._path} can't be written by the handler's user", _DOCTOR)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Raise SessionsUnwritable if SQLite or the system raises an error."""
        try:
            yield
        except BlockingIOError:
            why = f"another handler has {self.directory} open, and a conversation belongs to one handler"
            self._why = (why, "start this one with BREAKGLASS_CHAT=off")
        except (sqlite3.Error, OSError) as error:
            self._why = (f"sessions.dir can't be used: {error}", _DOCTOR)
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE:
                self._is_damaged = True
                self._why = (f"{self._path} is damaged: {error}", f"move {self._path} away")
        else:
            return
        raise SessionsUnwritable(*self._why)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection and commit at the end, or roll back after an error. Raises SessionsUnwritable."""
        with self._failures():
            if self._db is None:
                raise SessionsUnwritable(*self._why)
            with self._db:
                yield self._db


T = TypeVar("T")


class Disk:
    """The one thread that uses sessions.dir and other files of a turn, because any disk access may hang."""

    def __init__(self) -> None:
        self._threads = DaemonThreads("chat", 1)

    async def run(self, call: Callable[..., T], *arguments: Any) -> T:
        """Run a call and return its result. Raises its errors, or SessionsUnwritable if it takes too long."""
        try:
            return await self._threads.run(call, *arguments, seconds=SECONDS)
        except TimeoutError:
            raise SessionsUnwritable(f"sessions.dir did not answer in {SECONDS:g} s", _DOCTOR) from None
