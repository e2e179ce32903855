"""A resident host agent that finds another file in its own place goes on as that one: an upgrade needs no new login.

Each look at the disk is a forked child with a deadline: a disk that hangs must not stop the session.
"""

import hashlib
import os
import sys
import time
from functools import partial

from .host.bounded import ask_or_none, run

LOOK_EVERY = 10.0  # while nothing is under way
LOOK_AT_LEAST = 3600.0  # on a disk that hangs, where each look may leave a child behind
FILE_LOOK_SECONDS = 0.1  # on a disk that hangs, a verb that arrives now waits as long
FILE_COMPARE_SECONDS = 3.0  # once for each change of the file
FILE_TRY_SECONDS = 3.0  # the same
SETTLED_SECONDS = 2.0  # a file that is younger may be followed by another one
RENEWED = "BREAKGLASS_RENEWED"  # in the environment of a session that goes on in the new file: see become_new_file


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
        file_state = ask_or_none(partial(_look_at_file, self._path), FILE_LOOK_SECONDS)
        if file_state is None or file_state == self._known or not self._digest:
            self._set_pause(file_state)
            return False
        state = ask_or_none(partial(_compare_file, self._path, self._digest), FILE_COMPARE_SECONDS)
        if state == "another":
            state = _try_file()
        self._set_pause(state)
        if state in ("same", "unfit", "works"):
            self._known = file_state
        return state == "works"

    def _set_pause(self, answer: object) -> None:
        self.pause = LOOK_EVERY if answer is not None else min(2 * self.pause, LOOK_AT_LEAST)


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
    """Return `same`, `another`, `young` for one that may be followed by another, or `unfit` for what is no host agent.

    A file that others can write, or that a new login could not run, is unfit as well.
    """
    try:
        with open(path, "rb") as file:
            text, status = file.read(), os.fstat(file.fileno())
        if hashlib.sha256(text).hexdigest() == digest:
            return "same"
        compile(text, path, "exec")
    except (OSError, SyntaxError, ValueError):
        return "unfit"
    if abs(time.time() - status.st_ctime) < SETTLED_SECONDS:
        return "young"
    is_safe = status.st_uid == os.geteuid() and status.st_mode & 0o122 == 0o100
    last = text.rstrip().rpartition(b"\n")[2].strip()  # a copy that was cut may compile as well
    return "another" if is_safe and text.startswith(b"#!") and last.startswith(b"sys.exit(main") else "unfit"


def _try_file() -> str | None:
    """Have the file begin a session that has no input, which ends at once; return `works`, `unfit`, or None.

    One that fails as it starts, or does not take these arguments, would end the session that works.
    """
    code = run([sys.executable, *sys.orig_argv[1:]], FILE_TRY_SECONDS).code
    return None if code is None else "unfit" if code else "works"


def become_new_file(empty_at: float) -> None:
    """Run the file in this process, with the same arguments and streams; return only if that failed.

    The new program gets the time when the input was last empty, in seconds since the boot: what it reads first may
    be as old.
    """
    try:
        os.execve(sys.executable, sys.orig_argv, os.environ | {RENEWED: str(empty_at)})
    except OSError:
        pass
