"""Stores turns, their events, and what claude knows of each conversation.

All of it blocks, and raises SessionsUnwritable. What a caller or a turn sends is a parameter, never a statement.
"""

import json
import sqlite3
from collections.abc import Container, Sequence
from typing import NamedTuple

from ..base.text import plain_line
from .database import Database
from .events import Event, encode_event
from .proposals import MOST as MOST_PROPOSALS
from .request import Proposal, TurnRequest
from .tokens import LIFETIME

CHUNK = 16 * 1024  # of events that are read at once, unless one is longer
CALLER_BYTES = 256 << 20  # of a caller's events and prompts
REFUSED_SECONDS, MOST_REFUSED = 24 * 3600.0, 200  # of a caller
PAGES = 1024  # given back to the file system at once
WORDS = 120  # characters of the first question

ErrorText = tuple[str, str, str]  # code, message, hint of an `error` event
KILLED = (
    "claude-crashed",
    "the turn ended early, because a process that it needs was killed",
    "ask again: the conversation continues",
)
_LOST = ("session-lost", "the conversation is no longer in sessions.dir", "begin a new conversation")

# One of these at a time: each takes a moment, and the other calls wait for it.
_OLD = (
    "SELECT key FROM turn WHERE at < :old AND code IS NOT NULL",
    "SELECT key FROM turn WHERE at < :refused AND sid IS NULL",
    "SELECT key FROM turn WHERE code IS NOT NULL AND caller IN"
    " (SELECT caller FROM turn GROUP BY caller HAVING sum(bytes) > :most) ORDER BY at",
)


class StoredTurn(NamedTuple):
    """What is known of a turn beside its events; `code` is None until it has ended."""

    vm: str
    digest: str
    code: str | None


class Begun(NamedTuple):
    """A turn that was begun or refused now (`is_new`) or earlier, and the size of its session's transcript."""

    turn: StoredTurn
    is_new: bool
    transcript: int = 0


class Batch(NamedTuple):
    """What a turn has sent: its events by number, pieces of its transcript by their place, and proposals."""

    events: Sequence[tuple[int, bytes]] = ()
    pieces: Sequence[tuple[int, bytes]] = ()
    proposals: Sequence[Proposal] = ()


def build_ending(error: ErrorText, number: int) -> list[tuple[int, bytes]]:
    """Return an error and `done` as lines with their numbers: the end of a turn that has none of its own."""
    code, message, hint = error
    first: Event = {"type": "error", "n": number, "code": code, "message": message, "hint": hint}
    return [(number, encode_event(first)), (number + 1, encode_event({"type": "done", "n": number + 1, "ok": False}))]


class Store(Database):
    """The conversations of one sessions.dir."""

    # --- turns ---

    def open(self, alive: Container[bytes] = ()) -> None:
        """Open the file unless it is open, and end each turn that has no end, unless it is `alive`.

        The handler or its disk has failed meanwhile. Raises SessionsUnwritable.
        """
        self.reopen()
        running = "SELECT key, max(n) FROM turn JOIN event USING (key) WHERE code IS NULL GROUP BY key"
        with self.transaction() as db:
            for key, n in db.execute(running).fetchall():
                if key not in alive:
                    self._write(db, key, build_ending(KILLED, n + 1), KILLED[0])

    def find(self, key: bytes) -> StoredTurn | None:
        """Return a turn, or None where there is none."""
        with self.transaction() as db:
            return self._find(db, key)

    def _find(self, db: sqlite3.Connection, key: bytes) -> StoredTurn | None:
        found = db.execute("SELECT vm, digest, code FROM turn WHERE key = ?", (key,)).fetchone()
        return StoredTurn(*found) if found else None

    def begin(self, request: TurnRequest, first: Event, now: float, refusal: ErrorText | None) -> Begun:
        """Begin a turn, or refuse it, unless it exists already."""
        key = request.key
        with self.transaction() as db:
            found = self._find(db, key)
            if found is not None:
                return Begun(found, False)
            self.check_room()
            if request.resume and not db.execute("SELECT 1 FROM conversation WHERE sid = ?", (request.sid,)).fetchone():
                refusal = refusal or _LOST
            if refusal is None:
                self._note(db, request, now)
            sid, prompt = (None, "") if refusal else (request.sid, request.typed)
            row = (key, request.caller, request.turn, sid, request.vm.name, request.digest, prompt, request.tools, now)
            db.execute("INSERT INTO turn VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, 0, ?)", (*row, len(prompt.encode())))
            lines = [(1, encode_event(first)), *(build_ending(refusal, 2) if refusal else ())]
            self._write(db, key, lines, refusal[0] if refusal else None)
            if refusal:
                self._forget_refusals(db, request.caller)
            turn = StoredTurn(request.vm.name, request.digest, refusal[0] if refusal else None)
            return Begun(turn, True, self._trim(db, request.sid) if request.resume else 0)

    def _note(self, db: sqlite3.Connection, request: TurnRequest, now: float) -> None:
        """Add a turn to its conversation, which may be new."""
        words = plain_line(request.typed)[:WORDS]
        still_open = json.dumps([dict(each) for each in request.still_open])
        db.execute(
            "INSERT INTO conversation VALUES (?, ?, ?, ?, ?, 1, ?)"
            " ON CONFLICT (sid) DO UPDATE SET at = excluded.at, turns = turns + 1, proposals = excluded.proposals",
            (request.sid, request.caller, request.vm.name, words, now, still_open),
        )

    def _forget_refusals(self, db: sqlite3.Connection, caller: str) -> None:
        newest = "SELECT key FROM turn WHERE caller = :caller AND sid IS NULL ORDER BY at DESC, rowid DESC LIMIT :most"
        statement = f"DELETE FROM turn WHERE caller = :caller AND sid IS NULL AND key NOT IN ({newest})"  # noqa: S608
        db.execute(statement, {"caller": caller, "most": MOST_REFUSED})

    def add(self, key: bytes, sid: str, batch: Batch, code: str | None = None, cost: float = 0.0) -> None:
        """Save what a turn has sent; with a `code`, its end. A piece at 0 begins the transcript anew."""
        with self.transaction() as db:
            for at, data in batch.pieces:
                db.execute("DELETE FROM piece WHERE sid = ? AND at >= ?", (sid, at))
                db.execute("INSERT INTO piece VALUES (?, ?, ?)", (sid, at, data))
            if batch.proposals:
                known = [*self._proposals(db, sid), *map(dict, batch.proposals)]
                db.execute(
                    "UPDATE conversation SET proposals = ? WHERE sid = ?", (json.dumps(known[-MOST_PROPOSALS:]), sid)
                )
            self._write(db, key, batch.events, code, cost)

    def _write(
        self,
        db: sqlite3.Connection,
        key: bytes,
        events: Sequence[tuple[int, bytes]],
        code: str | None,
        cost: float = 0.0,
    ) -> None:
        db.executemany("INSERT INTO event VALUES (?, ?, ?)", [(key, n, line) for n, line in events])
        size = sum(len(line) for _, line in events)
        db.execute("UPDATE turn SET code = ?, cost = ?, bytes = bytes + ? WHERE key = ?", (code, cost, size, key))

    def read(self, key: bytes, after: int) -> tuple[bytes, int, bool]:
        """Return the next lines after an event, the number of the last of them, and whether that is the turn's last.

        Of a turn that has ended, the last line comes even where `after` is beyond it.
        """
        with self.transaction() as db:
            turn = self._find(db, key)
            if turn is None:
                raise sqlite3.Error("the turn was removed")
            [last] = db.execute("SELECT max(n) FROM event WHERE key = ?", (key,)).fetchone()
            number = min(after, last - 1) if turn.code is not None else after
            lines = bytearray()
            for n, line in db.execute("SELECT n, line FROM event WHERE key = ? AND n > ? ORDER BY n", (key, number)):
                if lines and len(lines) + len(line) > CHUNK:
                    break
                lines += line
                number = n
            return bytes(lines), number, turn.code is not None and number >= last

    # --- conversations ---

    def proposals(self, sid: str) -> list[Proposal]:
        """Return the proposals of a session whose outcome claude does not know yet."""
        with self.transaction() as db:
            return self._proposals(db, sid)

    def _proposals(self, db: sqlite3.Connection, sid: str) -> list[Proposal]:
        found = db.execute("SELECT proposals FROM conversation WHERE sid = ?", (sid,)).fetchone()
        return list(json.loads(found[0])) if found else []

    def prompt(self, key: bytes) -> str | None:
        """Return what was asked in a turn, or None where it was removed."""
        with self.transaction() as db:
            found = db.execute("SELECT prompt FROM turn WHERE key = ?", (key,)).fetchone()
        return str(found[0]) if found else None

    def piece(self, sid: str, at: int) -> bytes:
        """Return the piece of a session's transcript that begins at `at`, or nothing."""
        with self.transaction() as db:
            found = db.execute("SELECT data FROM piece WHERE sid = ? AND at = ?", (sid, at)).fetchone()
        return bytes(found[0]) if found else b""

    def _trim(self, db: sqlite3.Connection, sid: str) -> int:
        """Cut a transcript after its last whole line, because its turn may have been killed; return its size."""
        last = "SELECT at, data FROM piece WHERE sid = ? ORDER BY at DESC LIMIT 1"
        while found := db.execute(last, (sid,)).fetchone():
            at, data = found
            whole = data[: data.rfind(b"\n") + 1]
            db.execute("DELETE FROM piece WHERE sid = ? AND at = ?", (sid, at))
            if whole:
                db.execute("INSERT INTO piece VALUES (?, ?, ?)", (sid, at, whole))
                return int(at) + len(whole)
        return 0

    def prune(self, now: float) -> bool:
        """Remove one thing that is too old or too much, or shorten the file a bit; tell whether there may be more."""
        times = {"old": now - LIFETIME, "refused": now - REFUSED_SECONDS, "most": CALLER_BYTES}
        with self.transaction() as db:
            for statement in _OLD:
                if db.execute(f"DELETE FROM turn WHERE key = ({statement} LIMIT 1)", times).rowcount:  # noqa: S608
                    return True
            turns = "SELECT 1 FROM turn WHERE turn.sid = conversation.sid"
            gone = f"SELECT sid FROM conversation WHERE at < :old AND NOT EXISTS ({turns})"  # noqa: S608
            if db.execute(f"DELETE FROM conversation WHERE sid = ({gone} LIMIT 1)", times).rowcount:  # noqa: S608
                return True
            before = self._free_pages(db)
            db.execute(f"PRAGMA incremental_vacuum({PAGES})").fetchall()
            return 0 < self._free_pages(db) < before

    def _free_pages(self, db: sqlite3.Connection) -> int:
        return int(db.execute("PRAGMA freelist_count").fetchone()[0])
