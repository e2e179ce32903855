"""The look at sessions.dir: turns and transcripts can be written there, and two handlers can't run one session."""

import errno
import fcntl
import os
import pwd
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path

from ..base.findings import Finding
from ..base.threads import run_in_thread
from ..chat.request import SessionsUnwritable
from ..chat.store import ROOM_BYTES, Store
from ..claude.command import SOCKET_BYTES
from ..claude.isolation import HANDLERS
from ..claude.sandbox import SOCKET
from .visit import CHAT, about

SECONDS = 8.0
_PLENTY_BYTES = 256 << 20  # for some weeks of transcripts
_LEAST_INODES, _FEW_INODES = 100, 1000  # a turn makes about twenty
_OF_OTHERS = ("/", "/dev/shm", "/home", "/root", "/run", "/srv", "/tmp", "/var", "/var/lib", "/var/tmp")  # noqa: S108
_CODES = {
    errno.ENOSPC: "sessions-full",
    errno.EDQUOT: "sessions-full",
    errno.EROFS: "sessions-read-only",
    errno.ENOTDIR: "sessions-no-directory",
    errno.EEXIST: "sessions-no-directory",
    errno.ENOENT: "sessions-no-directory",
    errno.ENAMETOOLONG: "sessions-path",
    **dict.fromkeys((errno.ENOTCONN, errno.EIO, errno.ESTALE), "sessions-gone"),
}

found_ok, found_warning, found_error = about(CHAT)


async def look_at_sessions(directory: str, has_launcher: bool) -> list[Finding]:
    """Return what is wrong with sessions.dir. A launcher makes its directories; without one, this does."""
    try:
        found = await run_in_thread(lambda: list(_find(Path(directory), has_launcher)), SECONDS)
    except TimeoutError:
        what = (
            f"sessions.dir, {directory}, did not answer in {SECONDS:g} s: its file system hangs, and so would a turn."
        )
        return [found_error("sessions-hang", what, f"mount it again: umount -l {shlex.quote(directory)}; mount -a")]
    return found or [found_ok("sessions-ready", f"sessions.dir, {directory}, can be written, and its locks work.")]


def _find(directory: Path, has_launcher: bool) -> Iterator[Finding]:
    socket = os.path.join(os.path.realpath(directory), "work", "0" * 32, SOCKET)
    if len(os.fsencode(socket)) > SOCKET_BYTES:
        most = SOCKET_BYTES - len(os.fsencode(socket)) + len(os.fsencode(os.path.realpath(directory)))
        what = f"The path of sessions.dir is too long for a socket: it may have {most} bytes."
        yield found_error("sessions-path", what, 'choose a shorter one: [sessions] dir = "/var/lib/breakglass"')
        return
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
        if not has_launcher:
            Store(str(directory)).ready()
        yield from _find_in(directory.absolute())
    except SessionsUnwritable as unwritable:
        yield _judge(directory, unwritable.__context__, unwritable.message)
    except OSError as failed:
        yield _judge(directory, failed, str(failed))


def _judge(directory: Path, cause: BaseException | None, message: str) -> Finding:
    """Return why sessions.dir can't be used."""
    code = _CODES.get(cause.errno or 0, "sessions-unwritable") if isinstance(cause, OSError) else "sessions-full"
    shown, user = shlex.quote(str(directory.absolute())), _user()
    fixes = {
        "sessions-full": f"free space there: df -h {shown}; df -i {shown}",
        "sessions-read-only": f'mount it for writing: mount -o remount,rw "$(findmnt -no TARGET -T {shown})"',
        "sessions-no-directory": f"make it: rm {shown} if that is a file; install -d -m 711 -o {user} {shown}",
        "sessions-path": 'choose a shorter one: [sessions] dir = "/var/lib/breakglass"',
        "sessions-gone": f"mount it again: umount -l {shown}; mount -a",
        "sessions-unwritable": f"let the handler's user write there: chown -R {user} {shown}",
    }
    what = f"sessions.dir, {directory}, can't be used: {message}"
    return found_error(code, f"{what.rstrip('.')}. Each turn would fail.", fixes[code])


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _find_in(directory: Path) -> Iterator[Finding]:
    shown, user = shlex.quote(str(directory)), _user()
    disk = os.statvfs(directory)
    room, inodes = disk.f_bavail * disk.f_frsize, disk.f_favail
    if disk.f_flag & os.ST_RDONLY:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(directory))
    if room < ROOM_BYTES or (disk.f_files and inodes < _LEAST_INODES):
        raise OSError(errno.ENOSPC, f"{room >> 20} MiB and {inodes} inodes are left", str(directory))
    if room < _PLENTY_BYTES or (disk.f_files and inodes < _FEW_INODES):
        what = f"sessions.dir, {directory}, has {room >> 20} MiB and {inodes} inodes left."
        yield found_warning("sessions-nearly-full", what, f"free space there: df -h {shown}; df -i {shown}")
    if disk.f_flag & os.ST_NOEXEC:
        what = f"sessions.dir, {directory}, is mounted noexec, and claude runs its commands through a script there."
        yield found_error("sessions-noexec", what, f'mount -o remount,exec "$(findmnt -no TARGET -T {shown})"')
    for name in HANDLERS:
        status = (directory / name).stat()
        if not os.access(directory / name, os.R_OK | os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{user} can't write in {name}", str(directory / name))
        if status.st_mode & 0o077:
            what = f"Other users of this machine can reach {directory / name}, which has what was said to claude."
            yield found_warning("sessions-exposed", what, f"chmod 700 {shlex.quote(str(directory / name))}")
    yield from _find_no_locks(directory)


def _find_no_locks(directory: Path) -> Iterator[Finding]:
    """Write a file, and lock it: a lock that can't be had, or that two have, lets a session run twice."""
    with (
        tempfile.NamedTemporaryFile(prefix=".doctor-", dir=directory / "locks", buffering=0) as file,
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
        what = f"The file system of sessions.dir, {directory}, has no flock: {why}. A session could run twice."
        fix = 'put it on a file system with flock: [sessions] dir = "/var/lib/breakglass"'
        yield found_error("sessions-no-flock", what, f"{fix}; for NFS, mount with version 4 and without nolock")
