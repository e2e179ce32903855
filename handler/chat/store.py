"""Stores turns, their events, and claude's transcript of each conversation.

All functions block and can raise SessionsUnwritable. Data from a caller or a turn is always an SQL parameter, never
part of a statement.
"""

import json
import sqlite3
from collections.abc import Container, Sequence
from typing import NamedTuple

from ..base.text import plain_line
from .database import Database
from .events import Event
from .failures import KILLED, LOST, TurnError
from .job import Piece, encode_line
from .proposals import MOST as MOST_PROPOSALS
from .request import Proposal, TurnRequest
from .tokens import LIFETIME

CHUNK = 16 * 1024  # bytes of events that are read at once; a longer event is read alone
CALLER_BYTES = 256 << 20  # limit for the events, prompts and transcripts of one caller
PAGES = 1024  # pages that are given back to the file system at once
WORDS = 120  # characters of the first question

# Replace the old pieces of a transcript with the new ones.
_TAKE_OVER = (
    "DELETE FROM piece WHERE sid = :sid AND at >= (SELECT min(at) FROM new_piece WHERE sid = :sid)",
    "INSERT INTO piece SELECT * FROM new_piece WHERE sid = :sid",
    "DELETE FROM new_piece WHERE sid = :sid",
)
# These are removed one at a time, because other calls wait during each removal. A conversation without a stored turn
# is removed, because claude must not continue a conversation that can't be shown.
_OLD = (
    "DELETE FROM conversation WHERE sid ="
    " (SELECT sid FROM conversation WHERE NOT EXISTS (SELECT 1 FROM turn WHERE turn.sid = conversation.sid) LIMIT 1)",
    "DELETE FROM turn WHERE key = (SELECT key FROM turn WHERE code IS NOT NULL AND (at < :old OR caller IN ("
    "SELECT caller FROM (SELECT caller, bytes FROM turn"
    " UNION ALL SELECT caller, length(data) FROM piece JOIN conversation USING (sid))"
    " GROUP BY caller HAVING sum(bytes) > :most)) ORDER BY at LIMIT 1)",
)


class StoredTurn(NamedTuple):
    """The data of a turn other than its events. `code` is None until the turn has ended."""

    vm: str
    digest: str
    code: str | None
    prompt: str


class Begun(NamedTuple):
    """The result of requesting a turn, which had begun `earlier`, is refused, or has begun now.

    `transcript` is the size of the session's transcript in bytes.
    """

    earlier: StoredTurn | None = None
    refusal: TurnError | None = None
    transcript: int = 0


class Batch(NamedTuple):
    """What a turn has sent: its events by number, pieces of its transcript, and proposals."""

    events: Sequence[tuple[int, bytes]] = ()
    pieces: Sequence[Piece] = ()
    proposals: Sequence[Proposal] = ()


def build_ending(failure: TurnError, number: int) -> list[tuple[int, bytes]]:
    """Return an error and `done` as numbered lines. They end a turn that has no end."""
    first: Event = {"type": "error", "n": number, **failure._asdict()}
    return [(number, encode_line(first)), (number + 1, encode_line({"type": "done", "n": number + 1, "ok": False}))]


class Store(Database):
    """The conversations of one sessions.dir."""

    # --- turns ---

    def open(self, alive: Container[bytes] = ()) -> None:
        """Open the file unless it is open. End every turn that has no end and is not `alive`.

        A turn can lack an end because the handler or its disk failed. Raises SessionsUnwritable.
        """
        self.reopen()
        running = "SELECT key, max(n) FROM turn JOIN event USING (key) WHERE code IS NULL GROUP BY key"
        with self.transaction() as db:
            for key, n in db.execute(running).fetchall():
                if key not in alive:
                    self._write(db, key, build_ending(KILLED, n + 1), KILLED.code)

    def find(self, key: bytes) -> StoredTurn | None:
        """Return a turn, or None where there is none."""
        with self.transaction() as db:
            return self._find(db, key)

    def _find(self, db: sqlite3.Connection, key: bytes) -> StoredTurn | None:
        found = db.execute("SELECT vm, digest, code, prompt FROM turn WHERE key = ?", (key,)).fetchone()
        return StoredTurn(*found) if found else None

    def begin(self, request: TurnRequest, first: Event, now: float, refusal: TurnError | None) -> Begun:
        """Begin a turn, unless it has begun already, is refused, or its conversation was removed."""
        key = request.key
        with self.transaction() as db:
            if (earlier := self._find(db, key)) is not None:
                return Begun(earlier)
            if request.resume and not db.execute("SELECT 1 FROM conversation WHERE sid = ?", (request.sid,)).fetchone():
                refusal = refusal or LOST
            if refusal is not None:
                return Begun(refusal=refusal)
            self.check_room()
            self._note(db, request, now)
            row = (key, request.caller, request.turn, request.sid, request.vm.name, request.digest, request.prompt)
            size = len(request.prompt.encode())
            db.execute(
                "INSERT INTO turn VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, 0, ?)", (*row, request.tools, now, size)
            )
            self._write(db, key, [(1, encode_line(first))], None)
            db.execute("DELETE FROM new_piece WHERE sid = ?", (request.sid,))
            end = "SELECT max(at + length(data)) FROM piece WHERE sid = ?"
            return Begun(transcript=db.execute(end, (request.sid,)).fetchone()[0] or 0)

    def _note(self, db: sqlite3.Connection, request: TurnRequest, now: float) -> None:
        """Add a turn to its conversation, which may be new."""
        words = plain_line(request.prompt)[:WORDS]
        still_open = json.dumps([dict(each) for each in request.still_open])
        db.execute(
            "INSERT INTO conversation VALUES (?, ?, ?, ?, ?, 1, ?)"
            " ON CONFLICT (sid) DO UPDATE SET at = excluded.at, turns = turns + 1, proposals = excluded.proposals",
            (request.sid, request.caller, request.vm.name, words, now, still_open),
        )

    def add(self, key: bytes, sid: str, batch: Batch, code: str | None = None, cost: float = 0.0) -> None:
        """Save what a turn has sent, and with a `code`, its end. A piece at offset 0 replaces the transcript.

        Pieces are used only after the last piece of a transcript has arrived, because claude can't continue from half a
        transcript.
        """
        with self.transaction() as db:
            for at, data, is_last in batch.pieces:
                db.execute("DELETE FROM new_piece WHERE sid = ? AND at >= ?", (sid, at))
                db.execute("INSERT INTO new_piece VALUES (?, ?, ?)", (sid, at, data))
                for statement in _TAKE_OVER if is_last else ():
                    db.execute(statement, {"sid": sid})
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
        """Return the next lines after an event, the last line's number, and whether it is the turn's last line.

        If the turn has ended, its last line is returned even if `after` is beyond it.
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

    def piece(self, sid: str, at: int) -> bytes:
        """Return the piece of a session's transcript that begins at `at`, or nothing."""
        with self.transaction() as db:
            found = db.execute("SELECT data FROM piece WHERE sid = ? AND at = ?", (sid, at)).fetchone()
        return bytes(found[0]) if found else b""

    def prune(self, now: float) -> bool:
        """Remove one item that is too old or over a limit, or shrink the file. Return whether more may remain."""
        limits = {"old": now - LIFETIME, "most": CALLER_BYTES}
        with self.transaction() as db:
            if any(db.execute(statement, limits).rowcount for statement in _OLD):
                return True
            before = self._free_pages(db)
            db.execute(f"PRAGMA incremental_vacuum({PAGES})").fetchall()
            return 0 < self._free_pages(db) < before

    def _free_pages(self, db: sqlite3.Connection) -> int:
        return int(db.execute("PRAGMA freelist_count").fetchone()[0])
