"""Stores transcripts between turns: one file a session, which belongs to the handler. All of it blocks.

The runner of a turn gets open files and no path. It writes the next transcript into a new file, SID.new, which then
takes the place of SID by a rename: a turn that is killed together with its runner changes nothing. From the first turn
of a session until one is saved, SID is empty: so a session of which nothing was saved is not a lost one.
"""

import os
from pathlib import Path
from typing import NamedTuple

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
