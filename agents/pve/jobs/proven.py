"""When this host was last proven: by a drill, whose cycle ended well, or by a doctor that found no error.

One small file for the whole host. What is read is in /run; its copy on the disk, which may hang, lasts longer than a
boot. A process that nothing waits for writes the copy.
"""

import fcntl
import json
import os
import stat
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial

from ..grammar import Request
from ..host.files import boottime, read_small_file, write_atomic
from ..host.paths import Host, log
from ..host.process import spawn_detached
from ..words import DONE
from .result import Result

RESTORE_SECONDS = 0.3  # that a `ping` waits for the disk, which has 4 s in all
ASK_AGAIN_SECONDS = 600.0  # until the next look at a disk that had nothing, or did not answer
_DONE = "done"
_PROVEN_FIELDS = ("at", "by", "how", "vm")
_MOST_BYTES = 1000  # of the file: its fields are short, and each answer has them


def with_proven(host: Host, request: Request, result: Result) -> Result:
    """Return the result with when this host was last proven; first record it, if this request has proven it now.

    It reads and writes tmpfs only.
    """
    if request.proves and result.exit_code == DONE and result.state != "unknown":
        with suppress(OSError):  # a full /run: the verb is done all the same
            _record_proven(host, request)
    return replace(result, extra={**result.extra, "proven": read_proven(host.root)})


def read_proven(root: str) -> dict[str, object] | None:
    """Return when, by whom and how this host was last proven; None if it never was."""
    return _parse_proven(_read_here(root))


def _parse_proven(text: str) -> dict[str, object] | None:
    try:
        found = json.loads(text)
        return {name: found[name] for name in _PROVEN_FIELDS}
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _read_here(root: str) -> str:
    """Return the text in /run; "" for what isn't a short file. A fifo in its place holds up no answer."""
    try:
        fd = os.open(_proven_path(root), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        data = os.read(fd, _MOST_BYTES + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    except OSError:
        return ""
    finally:
        os.close(fd)
    return data.decode("utf-8", "replace") if len(data) <= _MOST_BYTES else ""


def _proven_path(root: str) -> str:
    return f"{root}/run/breakglass/proven.json"


def _archived_path(root: str) -> str:
    return f"{root}/var/lib/breakglass/proven.json"


def _record_proven(host: Host, request: Request) -> None:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    os.makedirs(f"{host.root}/run/breakglass", mode=0o700, exist_ok=True)
    proven = {"at": at, "by": request.by, "how": request.proves, "vm": host.vmid}
    write_atomic(_proven_path(host.root), json.dumps(proven))
    spawn_detached(host.log, "archive_proven", lambda: _archive_proven(host))


def _archive_proven(host: Host) -> None:
    """Copy the file to the disk; one process at a time, so that a disk that hangs holds up no second one."""
    lock = os.open(f"{host.root}/run/breakglass/proven.lock", os.O_RDWR | os.O_CREAT, 0o600)
    copied = ""
    while copied != (text := _read_here(host.root)):  # another process may have found the lock taken
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _copy_proven(_archived_path(host.root), text)
        except OSError as error:
            host.log(f"proven.json is not archived: {error.strerror}")
            return
        fcntl.flock(lock, fcntl.LOCK_UN)
        copied = text


def _copy_proven(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    draft = f"{path}.{os.getpid()}"
    with open(draft, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def restore_proven(root: str) -> dict[str, object] | None:
    """Return what `read_proven` does; after a boot, first bring the file back from the disk.

    A disk that is slow after a boot brings it back too, only later than this answer.
    """
    if read_proven(root) is None and _is_time_to_look(root):
        with suppress(OSError):
            spawn_detached(partial(log, root), "restore_proven", lambda: _put_back(root))
        until = time.monotonic() + RESTORE_SECONDS
        while _read_look(root)[1] != _DONE and time.monotonic() < until:
            time.sleep(0.005)
    return read_proven(root)


def _is_time_to_look(root: str) -> bool:
    """Tell whether the disk was not asked lately, and note that it is asked now."""
    try:
        if boottime() - float(_read_look(root)[0] or "-inf") < ASK_AGAIN_SECONDS:
            return False
        _note_look(root, "begun")
    except (OSError, ValueError):
        return False
    return True


def _read_look(root: str) -> tuple[str, str]:
    """Return when the disk was asked last, and `done` once it has answered."""
    at, _, state = read_small_file(_look_path(root)).partition(" ")
    return at, state


def _note_look(root: str, state: str) -> None:
    write_atomic(_look_path(root), f"{boottime()} {state}")


def _look_path(root: str) -> str:
    return f"{root}/run/breakglass/proven.asked"


def _put_back(root: str) -> None:
    """Bring the file back from the disk, unless a newer one has come meanwhile.

    One process at a time, which ends here if it can't have the lock: a disk that hangs for days holds up no second one.
    """
    lock = os.open(f"{root}/run/breakglass/restore.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    text, path = read_small_file(_archived_path(root), _MOST_BYTES), _proven_path(root)
    if _parse_proven(text):
        draft = f"{path}.{os.getpid()}"
        with open(draft, "w", encoding="utf-8") as file:
            file.write(text)
        with suppress(FileExistsError):
            os.link(draft, path)
        os.unlink(draft)
    _note_look(root, _DONE)
