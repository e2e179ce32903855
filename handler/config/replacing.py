"""Replaces the text of the configuration file as a whole: after a crash the file is the old one or the new one.

Two edits at once wait for each other. A person's editor knows no lock, so a file that has changed since it was read is
not replaced. The new text is checked as `breakglass check` does: one with a problem that the old one did not have is
refused. After any error the file is as it was, and no other file is left.
"""

import contextlib
import errno
import fcntl
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from .load import load_text, unreadable
from .problems import ConfigError, Problem
from .secret_files import describe_exposure, safe_mode

_LOCK_SECONDS = 10.0
_PAUSE_SECONDS = 0.05
_ENDING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_NOT_COPIED = ("security.ima", "security.evm")  # the kernel makes them of the content


class EditError(Exception):
    """Raised if the file can't be changed, and was not: what is wrong, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals that end a command wait for a moment."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Edit:
    """The configuration while it is changed: its text, and `save`. `is_saved` tells whether the new text is in force.

    `path` is the file itself, where the setting names a link to it.
    """

    def __init__(self, path: Path, directory: int) -> None:
        self.path, self._directory, self.is_saved = path, directory, False
        self._new = f".{path.name}.new"
        try:
            with open(path, "rb", opener=_open_at_once) as file:
                self.status = os.fstat(file.fileno())
                if not stat.S_ISREG(self.status.st_mode):
                    raise EditError(f"{path} is not a file that can be replaced", "name the configuration's own file")
                self._data = file.read()
            self.text = self._data.decode("utf-8-sig")
        except (OSError, ValueError) as error:
            raise ConfigError([unreadable(path, error)]) from None
        if exposure := describe_exposure(path, self.status, os.environ):
            raise EditError(f"{path} is not safe: {exposure}", f"chmod {safe_mode(self.status)} {path}")

    def save(self, text: str) -> None:
        """Put a new text into the file. Raises EditError."""
        self._check(text)
        bom = b"\xef\xbb\xbf" if self._data.startswith(b"\xef\xbb\xbf") else b""
        with uninterrupted():
            try:
                self._write(bom + text.encode())
                self._refuse_changed()
                os.rename(self._new, self.path.name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
                self.is_saved = True
            except OSError as error:
                raise _explain(error, self.path) from None
            finally:
                if not self.is_saved:
                    self._remove_new()
            with contextlib.suppress(OSError):  # the new file is in force, whatever the disk says now
                os.fsync(self._directory)

    def _check(self, text: str) -> None:
        known = self._problems(self.text)
        if new := [problem for problem in self._problems(text) if problem not in known]:
            lines = "; ".join(f"{problem.path} {problem.message}" for problem in new)
            raise EditError(f"{self.path} would get a new problem: {lines}", f"nothing was changed; {new[0].hint}")

    def _problems(self, text: str) -> list[Problem]:
        try:
            return list(load_text(self.path, text, self.status, os.environ).problems)
        except ConfigError as error:
            return error.problems

    def _write(self, data: bytes) -> None:
        """Write the new file beside the old one, with its owner, mode and extended attributes (ACL, SELinux)."""
        self._remove_new()  # of an edit that was killed
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(self._new, flags, 0o600, dir_fd=self._directory)
        with os.fdopen(descriptor, "wb") as file:
            like(descriptor, self.path, self.status)
            file.write(data)
            file.flush()
            os.fsync(descriptor)

    def _refuse_changed(self) -> None:
        """Raise EditError if the file is not as it was read: a person, or another program, has changed it."""
        now = self.path.stat()
        fields = ("st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
        is_same = all(getattr(now, field) == getattr(self.status, field) for field in fields)
        if not is_same or self.path.read_bytes() != self._data:
            raise EditError(f"{self.path} was changed by another program meanwhile", "run this command again")

    def _remove_new(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._new, dir_fd=self._directory)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe's writer may never come


def like(descriptor: int, path: Path, status: os.stat_result) -> None:
    """Give a new file the owner, the extended attributes and the mode of another one.

    Raises EditError if this user may not, because the handler could then be unable to read the file.
    """
    try:
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.fstat(descriptor).st_gid):
            os.fchown(descriptor, status.st_uid, status.st_gid)
        wanted, there = _attributes(path), _attributes(descriptor)
        for name in there.keys() - wanted.keys():
            os.removexattr(descriptor, name)
        for name, value in wanted.items():
            if there.get(name) != value:
                os.setxattr(descriptor, name, value)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode))
    except PermissionError:
        message = f"the new file could not get the owner and the attributes of {path}"
        raise EditError(message, "run this as root, or as the file's owner") from None


def _attributes(file: Path | int) -> dict[str, bytes]:
    try:
        return {name: os.getxattr(file, name) for name in os.listxattr(file) if name not in _NOT_COPIED}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return {}
        raise


def _explain(error: OSError, path: Path) -> EditError:
    """Return what an error of the file system means for an edit, and what to do."""
    why = os.strerror(error.errno or 0)
    message = f"{path} can't be replaced: {why}"
    match error.errno:
        case errno.EBUSY | errno.EXDEV:
            hint = "it is mounted by itself, as in a container: change it where it is mounted from"
        case errno.EROFS:
            hint = "change it where it comes from: keys new NAME --print prints an entry for it"
        case errno.ENOSPC | errno.EDQUOT:
            hint = f"make room in {path.parent}"
        case errno.EACCES:
            hint = f"run this as root, or as the owner of {path.parent}"
        case errno.EPERM:
            hint = f"run this as root; if root may not either, see lsattr -d {path.parent} {path}, and chattr"
        case _:
            hint = f"check {path.parent}"
    return EditError(message, f"nothing was changed; {hint}")


@contextlib.contextmanager
def editing(file: Path) -> Iterator[Edit]:
    """Return the configuration file to be changed, and hold the lock against another edit.

    Raises ConfigError for a file that can't be read, EditError if another edit takes too long.
    """
    path = Path(os.path.realpath(file))
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError([unreadable(file, error)]) from None
    try:
        _lock(directory, path)
        yield Edit(path, directory)
    finally:
        os.close(directory)


def _lock(directory: int, path: Path) -> None:
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            return fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                message = f"another command has been changing {path} for {_LOCK_SECONDS:g} s"
                raise EditError(message, "wait for its end, then run this command again") from None
            time.sleep(_PAUSE_SECONDS)
        except OSError as error:
            message = f"{path.parent} can't be locked: {os.strerror(error.errno or 0)}"
            raise EditError(message, "keep the configuration on a local disk") from None
