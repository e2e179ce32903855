"""Trees that claude's user made: root removes them as that user, and none ends chat or the tidying."""

import ctypes
import os
import pwd
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from breakglass.chat import removal
from breakglass.chat.sessions import LIFETIME
from breakglass.chat.store import Store

from ..support.signals import signal_process

pytestmark = pytest.mark.real("root")

USER = pwd.getpwnam("nobody")
PAIRS = 200
PATIENT_SECONDS = 120.0
LIBC = ctypes.CDLL(None)
SID = "0b6f3f6a-3d0f-4d0e-9d0f-1c2f3a4b5c6d"


def nest() -> None:
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")


def close() -> None:
    os.makedirs("a/b/c")
    for name in ("a/b/c", "a/b", "a", "."):
        os.chmod(name, 0)


def make_pairs(target: Path) -> None:
    for n in range(PAIRS):
        os.makedirs(f"x/d{n}/d")
        os.symlink(target, f"l{n}")


def swap_for_ever() -> None:
    while True:
        for n in range(PAIRS):
            LIBC.renameat2(-100, f"x/d{n}".encode(), -100, f"l{n}".encode(), 2)  # AT_FDCWD, RENAME_EXCHANGE


def date_ahead() -> None:
    Path("f").touch()
    for name in ("f", "."):
        os.utime(name, (4e9, 4e9))


TREES = pytest.mark.parametrize("fill", [nest, close])


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a removal all the time that a slow disk needs: the tests that ask for this are not about the deadline."""
    monkeypatch.setattr(removal, "SECONDS", PATIENT_SECONDS)


@pytest.fixture
def sessions() -> Iterator[Path]:
    """A sessions.dir that another user can pass through, removed without recursion."""
    directory = Path(tempfile.mkdtemp(prefix="bg"))
    directory.chmod(0o711)
    Store(str(directory)).ready()
    (directory / "claude").mkdir(0o711)
    yield directory
    subprocess.run(["rm", "-rf", str(directory)], check=True)


def as_user(directory: Path, work: Callable[[], object]) -> int:
    """Do some work as claude's user, in a process of its own; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(USER.pw_gid)
            os.chdir(directory)
            os.setuid(USER.pw_uid)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def owned(path: Path, fill: Callable[[], object] = bool) -> Path:
    """Make a directory of claude's user, and have that user fill it."""
    path.mkdir()
    os.chown(path, USER.pw_uid, USER.pw_gid)
    assert os.waitstatus_to_exitcode(os.waitpid(as_user(path, fill), 0)[1]) == 0
    return path


def work_dir(sessions: Path, name: str = "turn") -> Path:
    """Make the directory of a turn, as the handler does."""
    path = Store(str(sessions)).make_work_dir(sessions / "turns" / name)
    path.chmod(0o711)
    (path / "ssh").mkdir(0o700)
    (path / "ssh/key").write_text("secret")
    (path / "shell").write_text("#!/bin/sh")
    return path


def age(sessions: Path, sid: str, seconds: float) -> None:
    """Make the last turn of a session so old."""
    lock = sessions / "locks" / sid
    lock.touch(0o600)
    os.utime(lock, (1, time.time() - seconds))


@TREES
@pytest.mark.usefixtures("patient")
def test_a_turns_directory_is_removed(sessions: Path, fill: Callable[[], object]) -> None:
    """Whatever claude made of its scraps: 3,000 directories in one another, or some that their owner can't enter."""
    work = work_dir(sessions)
    owned(work / "scraps", fill)
    Store(str(sessions)).tidy(sessions / "turns/turn")
    assert not work.exists()


@TREES
@pytest.mark.usefixtures("patient")
def test_transcripts_are_removed(sessions: Path, fill: Callable[[], object]) -> None:
    """And whatever claude made of its home, the session after it is tidied, too."""
    later = SID.replace("0", "f")
    for sid, work in ((SID, fill), (later, bool)):
        owned(sessions / "claude" / sid, work)
        age(sessions, sid, LIFETIME + 60)
    Store(str(sessions)).prune()
    assert list((sessions / "claude").iterdir()) == []
    assert list((sessions / "locks").iterdir()) == []


@pytest.mark.usefixtures("patient")
def test_root_walks_no_tree_of_claudes(sessions: Path) -> None:
    """A directory of root's in the tree stays: claude's user may not empty it. What is ours is removed."""
    work = work_dir(sessions)
    inside = owned(work / "scraps") / "inside"
    inside.mkdir(0o755)
    (inside / "file").touch()
    Store(str(sessions)).tidy(sessions / "turns/turn")
    assert (inside / "file").exists()
    assert sorted(path.name for path in work.iterdir()) == ["scraps"]


def test_a_directory_that_becomes_a_link(sessions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the tree is removed, a directory in it is exchanged with a link to one of root's, over and over."""
    kept = sessions / "kept"
    (kept / "d").mkdir(parents=True)
    (kept / "d/file").touch()
    work = work_dir(sessions)
    scraps = owned(work / "scraps", lambda: make_pairs(kept))
    swapper = as_user(scraps, swap_for_ever)
    try:
        while (scraps / "x/d0").is_dir() and not (scraps / "x/d0").is_symlink():
            os.sched_yield()
        Store(str(sessions)).tidy(sessions / "turns/turn")
    finally:
        signal_process(swapper, signal.SIGKILL)
        os.waitpid(swapper, 0)
    monkeypatch.setattr(removal, "SECONDS", PATIENT_SECONDS)
    Store(str(sessions)).prune()  # what the exchange kept from being removed
    assert not work.exists()
    assert (kept / "d/file").exists()


def test_a_removal_has_a_deadline(sessions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left then is removed another time, and the transcripts after it are removed now."""
    monkeypatch.setattr(removal, "_REMOVE", ("tail", "-f", "/dev/null"))
    monkeypatch.setattr(removal, "SECONDS", 0.2)
    work = work_dir(sessions)
    store = Store(str(sessions))
    store.tidy(sessions / "turns/turn")
    assert work.exists()
    monkeypatch.undo()
    monkeypatch.setattr(removal, "SECONDS", PATIENT_SECONDS)
    store.prune()
    assert not work.exists()


@pytest.mark.usefixtures("patient")
def test_a_transcripts_age_is_not_what_claude_says(sessions: Path) -> None:
    """The time of the session's last turn counts. A file of the year 2099 keeps nothing."""
    owned(sessions / "claude" / SID, date_ahead)
    age(sessions, SID, LIFETIME + 60)
    Store(str(sessions)).prune()
    assert not (sessions / "claude" / SID).exists()
