"""Removes from sessions.dir what is not in use and old enough. All of it blocks.

A turn's log and a session's transcript stay for as long as a token can continue the session, refusals for a day.
One failure costs one entry.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .. import audit
from ..claude.eventlog import try_lock
from .conversations import prune_conversations
from .refusals import prune_refusals
from .sessions import LIFETIME
from .transcripts import remove_transcript

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
