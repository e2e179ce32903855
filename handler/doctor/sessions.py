"""Checks sessions.dir: chat's file can be written there, and other users can't read it."""

import errno
import os
import pwd
import shlex
from collections.abc import Iterator
from pathlib import Path

from ..base.findings import Finding
from ..base.reasons import reason
from ..base.threads import run_in_thread
from ..chat.database import FILE, ROOM_BYTES
from .visit import CHAT, about

SECONDS = 8.0
_PLENTY_BYTES = 256 << 20  # enough for some weeks of transcripts
_LEAST_INODES = 10  # for the database, and for the files that SQLite keeps beside it
found_ok, found_warning, found_error = about(CHAT)


async def look_at_sessions(directory: str) -> list[Finding]:
    """Return the problems of sessions.dir."""
    try:
        found = await run_in_thread(lambda: list(_find(Path(directory))), SECONDS)
    except TimeoutError:
        what = (
            f"sessions.dir, {directory}, did not answer in {SECONDS:g} s: its file system hangs, and so would a turn."
        )
        return [found_error("sessions-hang", what, f"mount it again: umount -l {shlex.quote(directory)}; mount -a")]
    return found or [found_ok("sessions-ready", f"sessions.dir, {directory}, can be written.")]


def _find(directory: Path) -> Iterator[Finding]:
    if not directory.is_absolute():
        what = f"sessions.dir is {directory}, which depends on the directory that the handler is started in."
        yield found_warning(
            "sessions-relative", what, f'write the absolute path: [sessions] dir = "{directory.absolute()}"'
        )
    try:
        directory.mkdir(0o700, parents=True, exist_ok=True)
        yield from _find_in(directory.absolute())
    except OSError as failed:
        shown, user = shlex.quote(str(directory.absolute())), _user()
        what = f"sessions.dir, {directory}, can't be used: {reason(failed)}".rstrip(".")
        fix = f"give the handler's user a directory there: install -d -m 700 -o {user} {shown}; chown -R {user} {shown}"
        yield found_error("sessions-unwritable", f"{what}. Each turn would fail.", fix)


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
        what = (
            f"sessions.dir, {directory}, is full: {room >> 20} MiB and {inodes} inodes are left. Each turn would fail."
        )
        yield found_error("sessions-full", what, f"free space there: df -h {shown}; df -i {shown}")
    elif room < _PLENTY_BYTES:
        what = f"sessions.dir, {directory}, has {room >> 20} MiB left."
        yield found_warning("sessions-nearly-full", what, f"free space there: df -h {shown}")
    for path in (directory, directory / FILE):
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, f"{_user()} can't write there", str(path))
    if (directory / FILE).exists() and (directory / FILE).stat().st_mode & 0o077:
        what = f"Other users of this machine can read {directory / FILE}, which contains the conversations with claude."
        yield found_warning("sessions-exposed", what, f"chmod 600 {shlex.quote(str(directory / FILE))}")
