"""sessions.dir: the threads that touch it, because it may hang, and the transcripts in it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..base.threads import DaemonThreads
from .request import SessionsUnwritable

# --- Runs the calls that touch sessions.dir in threads, because it may be on a network file system that hangs ---

THREADS = 4
SECONDS = 10.0

T = TypeVar("T")


class SessionsDisk:
    """The threads for calls that read and write sessions.dir. `prune_later` has one of its own: pruning takes time."""

    def __init__(self) -> None:
        self._threads = DaemonThreads("sessions", THREADS)
        self.prune_later = DaemonThreads("sessions-prune", 1).run_later

    async def run(self, call: Callable[..., T], *arguments: Any, on_late: Callable[[T], None] | None = None) -> T:
        """Return what a call returns; raise what it raises, or SessionsUnwritable when it does not return in time.

        `on_late` gets a result that comes after that.
        """
        try:
            return await self._threads.run(call, *arguments, seconds=SECONDS, on_late=on_late)
        except TimeoutError:
            raise SessionsUnwritable(f"sessions.dir did not answer in {SECONDS:g} s", "check its file system") from None

    async def read(self, call: Callable[..., T], *arguments: Any) -> T:
        """Return what a call returns; raise SessionsUnwritable also for a broken disk."""
        try:
            return await self.run(call, *arguments)
        except OSError as error:
            raise SessionsUnwritable(f"sessions.dir can't be used: {error}", "check sessions.dir") from None


# --- Stores transcripts between turns: one file a session, which belongs to the handler. All of it blocks ---
#
# The runner of a turn gets open files and no path. It writes the next transcript into a new file, SID.new, which then
# takes the place of SID by a rename: a turn that is killed together with its runner changes nothing. From the first
# turn of a session until one is saved, SID is empty: so a session of which nothing was saved is not a lost one.

_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC


class Transcript(NamedTuple):
    """Descriptors: the transcript, or -1 when there is none; the new file for the next one; their directory."""

    source: int
    target: int
    transcripts: int

    def close(self) -> None:
        """Close all of them."""
        for fd in self:
            if fd >= 0:
                os.close(fd)


def open_transcript(directory: Path, sid: str, is_first: bool) -> tuple[Transcript, bool]:
    """Open the transcript of a session, and a new file for the next one; tell if no turn of it was ever saved.

    Raises OSError.
    """
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
    source = target = -1
    is_unsaved = is_first
    try:
        target = os.open(f"{sid}.new", os.O_RDWR | os.O_CREAT | os.O_TRUNC | _FLAGS, 0o600, dir_fd=at)
        try:
            source = os.open(sid, os.O_RDONLY | (os.O_CREAT if is_first else 0) | _FLAGS, 0o600, dir_fd=at)
        except FileNotFoundError:
            pass
        else:
            is_unsaved = os.fstat(source).st_size == 0
        if is_unsaved:
            os.close(source)
            source = -1
    except BaseException:
        Transcript(source, target, at).close()
        raise
    return Transcript(source, target, at), is_unsaved


def remove_transcript(directory: Path, sid: str) -> None:
    """Remove the transcript of a session, and what a killed turn has left of the next one."""
    for name in (sid, f"{sid}.new"):
        (directory / name).unlink(missing_ok=True)
