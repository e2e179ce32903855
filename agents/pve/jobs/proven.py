"""When this host was last proven: by a drill with a successful cycle, or by a doctor run without errors.

One small file for the whole host. Readers use the file in /run. Its copy on the disk, which may hang, survives a
reboot. A separate process writes the copy, and nothing waits for it.
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

RESTORE_SECONDS = 0.3  # the time that a `ping`, which has 4 s in all, waits for the disk
_PROVEN_FIELDS = ("at", "by", "how", "vm")
_MOST_BYTES = 1000  # the most bytes that are read, because each answer includes the file's fields


def with_proven(host: Host, request: Request, result: Result) -> Result:
    """Add to the result when this host was last proven; if this request proves it now, record that first.

    It reads and writes tmpfs only.
    """
    if request.proves and result.exit_code == DONE and result.state != "unknown":
        with suppress(OSError):  # /run is full, but the verb is done
            _record_proven(host, request)
    return replace(result, extra={**result.extra, "proven": _read_proven(_proven_path(host.root))})


def restore_proven(root: str) -> dict[str, object] | None:
    """Return when, by whom and how this host was last proven, None if it never was; after a boot, ask the disk.

    If the disk is slow after a boot, the answer is there for a later `ping`.
    """
    if _read_proven(_proven_path(root)) is None:
        ask_or_none(lambda: _match_disk(root), RESTORE_SECONDS)
    return _read_proven(_proven_path(root))


def _proven_path(root: str, place: str = "run") -> str:
    return f"{root}/{place}/breakglass/proven.json"


def _read_proven(path: str) -> dict[str, object] | None:
    """Return a file's contents, None if it isn't a short file of ours. A fifo in its place delays no answer."""
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

    Only one process runs at a time and others end at once, so that a disk that hangs for days blocks only one.
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
            if newest in (found, None):  # otherwise another process, which found the lock taken, wrote a newer record
                return


def _draft_proven(path: str, proven: dict[str, object]) -> str:
    """Write a file that may replace another, through to the disk; return its path."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    draft = write_draft(path, json.dumps(proven))
    with open(draft, "rb") as file:
        os.fsync(file.fileno())
    return draft
