"""The look at sessions.dir: chat's one file can be written there, and one handler alone can have it open."""

import errno
import fcntl
import os
import pwd
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..base.findings import Finding
from ..base.reasons import reason
from ..base.threads import run_in_thread
from ..chat.database import FILE, ROOM_BYTES
from .visit import CHAT, about

SECONDS = 8.0
_PLENTY_BYTES = 256 << 20  # for some weeks of transcripts
_LEAST_INODES = 10  # for the file, and those that SQLite keeps beside it
_OF_OTHERS = ("/", "/dev/shm", "/home", "/root", "/run", "/srv", "/tmp", "/var", "/var/lib", "/var/tmp")  # noqa: S108
_CODES = {
    errno.ENOSPC: "sessions-full",
    errno.EDQUOT: "sessions-full",
    errno.EROFS: "sessions-read-only",
    errno.ENOTDIR: "sessions-no-directory",
    errno.EEXIST: "sessions-no-directory",
    errno.ENOENT: "sessions-no-directory",
    **dict.fromkeys((errno.ENOTCONN, errno.EIO, errno.ESTALE), "sessions-gone"),
}

found_ok, found_warning, found_error = about(CHAT)


async def look_at_sessions(directory: str) -> list[Finding]:
    """Return what is wrong with sessions.dir."""
    try:
        found = await run_in_thread(lambda: list(_find(Path(directory))), SECONDS)
    except TimeoutError:
        what = (
            f"sessions.dir, {directory}, did not answer in {SECONDS:g} s: its file system hangs, and so would a turn."
        )
        return [found_error("sessions-hang", what, f"mount it again: umount -l {shlex.quote(directory)}; mount -a")]
    return found or [found_ok("sessions-ready", f"sessions.dir, {directory}, can be written, and its locks work.")]


def _find(directory: Path) -> Iterator[Finding]:
    if not directory.is_absolute():
        what = f"sessions.dir is {directory}, which depends on the directory that the handler is started in."
        yield found_warning(
            "sessions-relative", what, f'write the absolute path: [sessions] dir = "{directory.absolute()}"'
        )
    if (place := os.path.realpath(directory)) in _OF_OTHERS:
        what = f"sessions.dir is {place}, which other programs use, and may empty."
        yield found_error(
            "sessions-path", what, 'give it a directory of its own: [sessions] dir = "/var/lib/breakglass"'
        )
        return
    try:
        directory.mkdir(0o700, parents=True, exist_ok=True)
        yield from _find_in(directory.absolute())
    except OSError as failed:
        yield _judge(directory, failed)


def _judge(directory: Path, failed: OSError) -> Finding:
    """Return why sessions.dir can't be used."""
    code = _CODES.get(failed.errno or 0, "sessions-unwritable")
    shown, user = shlex.quote(str(directory.absolute())), _user()
    fixes = {
        "sessions-full": f"free space there: df -h {shown}; df -i {shown}",
        "sessions-read-only": f'mount it for writing: mount -o remount,rw "$(findmnt -no TARGET -T {shown})"',
        "sessions-no-directory": f"move away what is there, then: install -d -m 700 -o {user} {shown}",
        "sessions-gone": f"mount it again: umount -l {shown}; mount -a",
        "sessions-unwritable": f"let the handler's user write there: chown -R {user} {shown}",
    }
    what = f"sessions.dir, {directory}, can't be used: {reason(failed)}"
    return found_error(code, f"{what.rstrip('.')}. Each turn would fail.", fixes[code])


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _find_in(directory: Path) -> Iterator[Finding]:
    shown, disk = shlex.quote(str(directory)), os.statvfs(directory)
    room, inodes = disk.f_bavail * disk.f_frsize, disk.f_favail
    if disk.f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(directory))
    if room < ROOM_BYTES or (disk.f_files and inodes < _LEAST_INODES):
        raise OSError(errno.ENOSPC, f"{room >> 20} MiB and {inodes} inodes are left", str(directory))
    if room < _PLENTY_BYTES:
        what = f"sessions.dir, {directory}, has {room >> 20} MiB left."
        yield found_warning("sessions-nearly-full", what, f"free space there: df -h {shown}")
    for path in (directory, directory / FILE):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, f"{_user()} can't write there", str(path))
    if (directory / FILE).exists() and (directory / FILE).stat().st_mode & 0o077:
        what = f"Other users of this machine can read {directory / FILE}, which has what was said to claude."
        yield found_warning("sessions-exposed", what, f"chmod 600 {shlex.quote(str(directory / FILE))}")
    yield from _find_no_locks(directory)


def _find_no_locks(directory: Path) -> Iterator[Finding]:
    """Write a file, and lock it: with a lock that can't be had, or that two have, two handlers have one file open."""
    with (
        tempfile.NamedTemporaryFile(prefix=".doctor-", dir=directory, buffering=0) as file,
        open(file.name, "rb+") as other,
    ):
        file.write(b"doctor")
        os.fsync(file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                why = "two can have one lock"
            except BlockingIOError:
                why = ""
        except OSError as failed:
            why = failed.strerror or str(failed)
    if why:
        what = f"The file system of sessions.dir, {directory}, has no flock: {why}. Two handlers could use one file."
        fix = 'put it on a file system with flock: [sessions] dir = "/var/lib/breakglass"'
        yield found_error("sessions-no-flock", what, fix)
