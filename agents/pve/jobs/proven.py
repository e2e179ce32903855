"""When this host was last proven: by a drill, whose cycle ended well, or by a doctor that found no error.

One small file for the whole host. What is read is in /run; its copy on the disk, which may hang, lasts longer than a
boot. A process that nothing waits for writes the copy.
"""

import fcntl
import json
import os
import time
from contextlib import suppress
from dataclasses import replace

from ..grammar import Request
from ..host.bounded import ask_or_none
from ..host.paths import Host, write_draft
from ..host.process import spawn_detached
from ..words import DONE
from .result import Result

RESTORE_SECONDS = 0.3  # that a `ping` waits for the disk, which has 4 s in all
_PROVEN_FIELDS = ("at", "by", "how", "vm")
_MOST_BYTES = 1000  # of the file: its fields are short, and each answer has them


def with_proven(host: Host, request: Request, result: Result) -> Result:
    """Return the result with when this host was last proven; first record it, if this request has proven it now.

    It reads and writes tmpfs only.
    """
    if request.proves and result.exit_code == DONE and result.state != "unknown":
        with suppress(OSError):  # a full /run: the verb is done all the same
            _record_proven(host, request)
    return replace(result, extra={**result.extra, "proven": _read_proven(_proven_path(host.root))})


def restore_proven(root: str) -> dict[str, object] | None:
    """Return when, by whom and how this host was last proven, None if it never was; after a boot, ask the disk.

    A disk that is slow after a boot has the answer for a later `ping`.
    """
    if _read_proven(_proven_path(root)) is None:
        ask_or_none(lambda: _match_disk(root), RESTORE_SECONDS)
    return _read_proven(_proven_path(root))


def _proven_path(root: str, place: str = "run") -> str:
    return f"{root}/{place}/breakglass/proven.json"


def _read_proven(path: str) -> dict[str, object] | None:
    """Return what a file says, None for what isn't a short file of ours. A fifo in its place holds up no answer."""
    try:
        with open(path, "rb", 0, opener=lambda path, flags: os.open(path, flags | os.O_NONBLOCK)) as file:
            text = file.read(_MOST_BYTES + 1) or b""
        found = json.loads(text if len(text) <= _MOST_BYTES else b"")
        return {name: found[name] for name in _PROVEN_FIELDS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _record_proven(host: Host, request: Request) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    proven = {"at": at, "by": request.by, "how": request.proves, "vm": host.vmid}
    os.replace(_draft_proven(_proven_path(host.root), proven), _proven_path(host.root))
    spawn_detached(host.log, "archive_proven", lambda: _match_disk(host.root))


def _match_disk(root: str) -> None:
    """Copy the file to the disk or, after a boot, from there, unless a newer one has come meanwhile.

    One process at a time, and others end at once, because a disk that hangs for days holds up no second one.
    """
    here, there = _proven_path(root), _proven_path(root, "var/lib")
    lock = os.open(f"{root}/run/breakglass/proven.lock", os.O_RDWR | os.O_CREAT, 0o600)
    with suppress(BlockingIOError):
        while True:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if found := _read_proven(here):
                os.replace(_draft_proven(there, found), there)
            elif found := _read_proven(there):
                draft = _draft_proven(here, found)
                with suppress(FileExistsError):
                    os.link(draft, here)
                os.unlink(draft)
            fcntl.flock(lock, fcntl.LOCK_UN)
            newest = _read_proven(here)
            if newest in (found, None):  # otherwise the process that brought it found the lock taken
                return


def _draft_proven(path: str, proven: dict[str, object]) -> str:
    """Write what may take the place of a file, through to the disk; return its path."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    draft = write_draft(path, json.dumps(proven))
    with open(draft, "rb") as file:
        os.fsync(file.fileno())
    return draft
