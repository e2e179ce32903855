"""Edits Breakglass's own key file: locks its directory, changes its text, and replaces it."""

import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..check.findings import Finding, error
from ..check.sshd_settings import KEY_FILE

Edit = Callable[[str], tuple[str, list[Finding]]]
_KEY = re.compile(r"(?:ssh|ecdsa|sk)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}", re.ASCII)


def read_key(text: str) -> str:
    """Return the type and the base64 of a public key; empty for a text that is no key."""
    words = " ".join(text.split()[:2])
    return words if _KEY.fullmatch(words) else ""


def key_file_of(root: str, user: str) -> str:
    """Return the path of the key file of an account."""
    return f"{root}{KEY_FILE}" if user == "root" else f"{root}/etc/ssh/authorized_keys.d/{user}"


@contextmanager
def lock_directory(path: str) -> Iterator[None]:
    """Wait for other edits, then lock a directory of key files. An edit replaces a file, so no file can be locked."""
    directory = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def edit_file(path: str, change: Edit) -> list[Finding]:
    """Change the text of a key file; return what was done. Raises OSError for a file that can't be read."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        text, status = file.read(), os.fstat(file.fileno())
    more, findings = change(text)
    if more != text:
        try:
            _replace(path, more, status)
        except OSError as failure:
            return [error(f"{path} can't be written, so it was not changed: {failure}", "fix that, and run this again")]
    return findings


def _replace(path: str, text: str, status: os.stat_result) -> None:
    """Replace a file. The new file has the same owner and mode, and is on the disk before it gets the name."""
    draft = f"{path}.{os.getpid()}"
    try:
        with open(draft, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError:
        with suppress(OSError):
            os.unlink(draft)
        raise
