"""Looks whether what a turn needs is still there: the program, the sandbox, the credential file, sessions.dir.

A look is a few calls of stat(2) and its like: it starts no process and no sandbox. Each part has a thread of its own,
because each may be on a disk that hangs. While a look hangs, no other one at that part begins.
"""

import asyncio
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence

from ..base.findings import Finding, error
from ..base.threads import run_in_thread
from ..claude.directory_id import read_directory_id
from ..claude.sandbox import PYTHON, bwrap
from ..config.model import ChatSettings
from ..config.sources import find_file
from .store import ROOM_BYTES

SECONDS = 3.0  # for one look at all parts

CLAUDE, SANDBOX, CREDENTIAL = "claude-missing", "sandbox-missing", "credential-missing"
SESSIONS = "sessions-unwritable"
_NO_FILES = ("/dev/", "/proc/")  # a credential that came through a pipe is not there again


class Part:
    """One thing that a turn needs. `find_fault` returns what is wrong with it, or ""; it may block."""

    def __init__(self, code: str, find_fault: Callable[[], str]) -> None:
        self.code = code
        self._find_fault = find_fault
        self._look: asyncio.Task[str] | None = None

    @property
    def is_hanging(self) -> bool:
        """Whether the last look has not ended."""
        return self._look is not None

    async def look(self, seconds: float) -> Finding | None:
        """Return what is wrong, or None; its code is that of /health, and its sentence, for the log, may name a file.

        A look that does not end in time goes on, and the next call waits for it.
        """
        if self._look is None:
            self._look = asyncio.create_task(run_in_thread(self._find_fault, math.inf))
        done, _ = await asyncio.wait([self._look], timeout=seconds)
        if not done:
            return error("chat", self.code, f"a look at it did not end within {seconds:g} s", "")
        look, self._look = self._look, None
        fault = look.exception()
        why = f"it can't be looked at: {fault!r}" if fault else look.result()
        return error("chat", self.code, why, "") if why else None


class EarlierLooks:
    """What earlier looks have seen: whether a sandbox was there, and the id of sessions.dir since a reload."""

    had_sandbox = False
    directory_id = ""


def list_parts(settings: ChatSettings, environment: Mapping[str, str], looks: EarlierLooks) -> list[Part]:
    """Return what a turn with these settings needs."""
    return [
        Part(CLAUDE, lambda: find_program_fault(settings.command)),
        Part(SANDBOX, lambda: find_sandbox_fault(settings.shared_uid, looks)),
        Part(CREDENTIAL, lambda: find_credential_fault(settings.credential_file, environment)),
        Part(SESSIONS, lambda: find_sessions_fault(settings.sessions_dir, looks)),
    ]


async def find_lack(parts: Sequence[Part]) -> Finding | None:
    """Look at all parts at once; return the first lack."""
    found = await asyncio.gather(*(part.look(SECONDS) for part in parts))
    return next((lack for lack in found if lack is not None), None)


def find_program_fault(command: str) -> str:
    """Return why claude can't be started, or ""."""
    return "" if shutil.which(command) else f"chat.command names {command}, which is not there or not executable"


def find_sandbox_fault(shared_uid: bool, looks: EarlierLooks) -> str:
    """Return which program of the sandbox is not there, or "". Whether it works was tried when chat was switched on.

    With shared_uid, turns have no sandbox if there was none at the first of them; one that goes away is missed.
    """
    missing = [program for program in (bwrap(), PYTHON) if not os.access(program, os.X_OK)]
    if not missing:
        looks.had_sandbox = True
        return ""
    is_needed = looks.had_sandbox or not shared_uid
    return f"the sandbox needs {missing[0]}, which is not there or not executable" if is_needed else ""


def find_credential_fault(setting: str, environment: Mapping[str, str]) -> str:
    """Return why the file of chat.credential_file is no longer good, or ""."""
    path = find_file(setting, environment)
    if not setting or path.startswith(_NO_FILES):
        return ""
    try:
        if os.stat(path).st_size == 0:
            return f"{path} is empty"
    except OSError as error:
        return f"{path} can't be found: {error.strerror}"
    return "" if os.access(path, os.R_OK) else f"{path} can't be read by the handler's user"


def find_sessions_fault(directory: str, looks: EarlierLooks) -> str:
    """Return why no turn could be saved in sessions.dir, or "". Makes nothing there.

    A volume that was unmounted can leave another directory in its place, which has other conversations.
    """
    top = os.path.abspath(directory)
    try:
        for name in ("turns", "locks", "transcripts"):
            path = f"{top}/{name}"
            os.stat(path)
            if not os.access(path, os.W_OK | os.X_OK):
                return f"{path} can't be written by the handler's user, or is read-only"
        disk = os.statvfs(top)
    except OSError as error:
        return f"sessions.dir can't be used: {error}"
    if disk.f_bavail * disk.f_frsize < ROOM_BYTES:
        return f"sessions.dir has less than {ROOM_BYTES >> 20} MiB left"
    found = read_directory_id(top)
    if looks.directory_id and found and found != looks.directory_id:
        return f"{top} has become another directory: its id was {looks.directory_id} and is {found}"
    looks.directory_id = looks.directory_id or found
    return ""
