"""A resident host agent that finds another file in its own place goes on as that one: an upgrade needs no new login.

Each look at the disk is a forked child with a deadline: a disk that hangs must not stop the session.
"""

import hashlib
import os
import sys
import time
from functools import partial

from .host.bounded import ask_or_none

LOOK_EVERY = 10.0  # while nothing is under way
LOOK_AT_LEAST = 3600.0  # on a disk that hangs, where each look may leave a child behind
FILE_LOOK_SECONDS = 0.1  # on a disk that hangs, a verb that arrives now waits as long
FILE_COMPARE_SECONDS = 3.0  # once for each change of the file
SETTLED_SECONDS = 2.0  # a file that is younger may be followed by another one
RENEWED = "BREAKGLASS_RENEWED"  # in the environment of a session that goes on in the new file


class OwnFile:
    """The file that this process was started from a moment ago."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._digest = file_digest(path)
        self._known: object = None
        self.pause = LOOK_EVERY  # until the next look

    def is_replaced(self) -> bool:
        """Tell whether another host agent, whole and settled, is in this one's place."""
        try:
            return self._look()
        except OSError:  # no process for the question: the session that works goes on
            return False

    def _look(self) -> bool:
        seen = ask_or_none(partial(_look_at_file, self._path), FILE_LOOK_SECONDS)
        self.pause = LOOK_EVERY if seen is not None else min(2 * self.pause, LOOK_AT_LEAST)
        if seen is None or seen == self._known or not self._digest:
            return False
        state = ask_or_none(partial(_compare_file, self._path, self._digest), FILE_COMPARE_SECONDS)
        if state != "young":
            self._known = seen
        return state == "another"


def file_digest(path: str) -> str:
    """Return a file's SHA-256, an empty text if it can't be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def _look_at_file(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_ino, status.st_ctime_ns, status.st_size]


def _compare_file(path: str, digest: str) -> object:
    """Return `same`, `another`, `young` for one that may be followed by another, or None for what is no host agent."""
    try:
        with open(path, "rb") as file:
            text, changed = file.read(), os.fstat(file.fileno()).st_ctime
        if hashlib.sha256(text).hexdigest() == digest:
            return "same"
        compile(text, path, "exec")
    except (OSError, SyntaxError, ValueError):
        return None
    if abs(time.time() - changed) < SETTLED_SECONDS:
        return "young"
    last = text.rstrip().rpartition(b"\n")[2].strip()  # a copy that was cut may compile as well
    return "another" if text.startswith(b"#!") and last.startswith(b"sys.exit(main") else None


def become_new_file() -> None:
    """Run the file in this process, with the same arguments and streams; return only if that failed."""
    try:
        os.execve(sys.executable, sys.orig_argv, os.environ | {RENEWED: "1"})
    except OSError:
        pass
