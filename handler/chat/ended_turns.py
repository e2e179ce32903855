"""Turns that have ended: how, what they spent, and when what is left of them is removed."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ..base import audit
from ..claude.eventlog import build_ending, finish_log, try_lock
from ..claude.events import Table, encode_event, parse_object
from .conversations import prune_conversations
from .refusals import prune_refusals
from .sessions import LIFETIME
from .sessions_dir import remove_transcript

# --- The endings that the handler gives to turns, in place of the runner ---

ErrorText = tuple[str, str, str]  # code, message, hint of an `error` event

KILLED = (
    "claude-crashed",
    "the turn ended early, because a process that it needs was killed",
    "ask again: the conversation goes on",
)
STOPPING = ("shutting-down", "Breakglass is stopping here, but the turn continues", "look at it again in a moment")
LAST_PLACE = (
    "busy",
    "you already have a turn, perhaps in another tab, and the last free place is kept for another caller",
    "wait for your turn to end or stop it, then ask again",
)
UNREADABLE = (
    "claude-crashed",
    "the turn's events can't be read: sessions.dir does not answer",
    "look at it again in a moment",
)


def encode_ending(error: ErrorText, number: int) -> bytes:
    """Return the last lines of a stream whose turn has another end, in its log."""
    return b"".join(map(encode_event, build_ending(*error, number + 1)))


# --- Reads what a turn that has ended was: how it ended, and what it spent. Blocks, because it reads the turn's log.

TAIL_BYTES = 4 * 1024 * 1024  # holds the last events, also with the longest answer that a model gives
_MOST = 1e12  # of what one turn can spend


class TurnSummary(NamedTuple):
    """`ok` or the code of the turn's error, its tokens by kind, and its cost in US dollars."""

    code: str
    tokens: Mapping[str, float]
    cost: float


def finish_turn(path: str) -> TurnSummary:
    """Write the ending of a log whose runner was killed, and return what the turn was. Raises OSError."""
    finish_log(path, *KILLED)
    with open(path, "rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - TAIL_BYTES))
        return read_summary(log.read())


def read_summary(tail: bytes) -> TurnSummary:
    """Return what the last lines of a log say. A turn without a result, because it was killed, has spent nothing."""
    code, result = "ok", {}
    for line in reversed(tail.splitlines()[-3:]):  # a result, an error and `done`, each of which may be missing
        event = parse_object(line) or {}
        if event.get("type") == "error":
            code = str(event.get("code"))
        elif event.get("type") == "result":
            result = dict(event)
    tokens = result.get("tokens")
    spent = {str(kind): _amount(tokens, kind) for kind in tokens} if isinstance(tokens, dict) else {}
    return TurnSummary(code, spent, _amount(result, "cost_usd"))


def _amount(table: Table, key: str) -> float:
    value = table.get(key)
    is_valid = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST
    return value if is_valid and value is not None else 0.0


# --- Removes from sessions.dir what is not in use and old enough. All of it blocks ---
#
# A turn's log and a session's transcript stay for as long as a token can continue the session, refusals for a day. One
# failure costs one entry.

REFUSED_SECONDS = 24 * 3600.0


class Directories(NamedTuple):
    """The directories in sessions.dir, by their names."""

    turns: Path
    locks: Path
    work: Path
    refused: Path
    transcripts: Path
    conversations: Path


def prune(directories: Directories, remove_work_dir: Callable[[Path], None], now: float) -> None:
    """Remove what is old enough at `now` (Unix seconds), and the oldest turns of a caller whose logs are too large."""

    def prune_refused(directory: Path) -> None:
        prune_refusals(directory, directories.turns, now - REFUSED_SECONDS)

    def prune_turn(turn_dir: Path, seconds: float = LIFETIME) -> None:
        if turn_dir.is_dir() and _is_idle(turn_dir / "log", now, seconds):
            shutil.rmtree(turn_dir)

    def prune_work_dir(path: Path) -> None:
        """Remove the directory of a process that has ended. Until then the log of its turn is locked."""
        if _is_idle(directories.turns / path.name / "log", now, 0):
            remove_work_dir(path)

    def prune_session(lock: Path) -> None:
        """Remove a session when its last token has expired: the time of its lock is that of its last turn."""
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            if now - os.fstat(fd).st_mtime > LIFETIME and try_lock(fd):
                remove_transcript(directories.transcripts, lock.name)
                lock.unlink()
        finally:
            os.close(fd)

    def prune_caller(directory: Path) -> None:
        for turn_dir in prune_conversations(directory, directories.locks, directories.turns):
            attempt(lambda path: prune_turn(path, 0), turn_dir)

    def attempt(prune_one: Callable[[Path], None], path: Path) -> None:
        try:
            prune_one(path)
        except FileNotFoundError:  # another handler was first
            pass
        except Exception as error:  # whatever it is, the other entries are looked at
            audit.note("not-removed", path=f"{path.parent.name}/{path.name}", error=repr(error))

    for directory, prune_one in (
        (directories.refused, prune_refused),
        (directories.turns, prune_turn),
        (directories.work, prune_work_dir),
        (directories.locks, prune_session),
        (directories.conversations, prune_caller),
    ):
        for path in directory.iterdir() if directory.exists() else ():
            attempt(prune_one, path)


def _is_idle(path: Path, now: float, seconds: float) -> bool:
    """Tell whether a file is unlocked and was not written to for so long, or whether it is missing for so long."""
    try:
        if now - path.stat().st_mtime < seconds:
            return False
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return not path.parent.exists() or now - path.parent.stat().st_mtime > seconds
    try:
        return try_lock(fd)
    finally:
        os.close(fd)
