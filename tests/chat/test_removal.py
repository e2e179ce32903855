"""Trees that claude made: they are removed with claude's rights, and none ends chat, the tidying or a later turn."""

import ctypes
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from breakglass.chat import store as chat_store
from breakglass.chat.store import Store
from breakglass.claude.homes import remove_directory
from breakglass.claude.uids import hand_over, remove_handed, remove_left_over

from ..support.claude import UIDS
from ..support.selection import sampled
from ..support.signals import signal_process
from ..support.stages import until

pytestmark = pytest.mark.slow
UID = UIDS[0]
DEEP = 2100  # directories, each in the one before: no path of theirs is short enough for a system call
PAIRS = 200
PATIENT_SECONDS = 120.0  # a removal that is not about its deadline gets all the time that a slow disk needs
LIBC = ctypes.CDLL(None)


def nest(deep: int = DEEP) -> None:
    for _ in range(deep):
        os.mkdir("d")
        os.chdir("d")


def close() -> None:
    os.makedirs("a/b/c")
    Path("a/b/file").touch(0o000)
    for name in ("a/b/c", "a/b", "a", "."):
        os.chmod(name, 0)


def mix() -> None:
    for n in range(100):
        Path(f"f{n}").touch()
        os.makedirs(f"d{n % 7}/{n}/e")
    os.symlink("/etc", "d0/link")
    os.symlink("d0", "to-a-directory")
    os.mkfifo("d1/fifo")


def make_pairs(target: Path) -> None:
    for n in range(PAIRS):
        os.makedirs(f"x/d{n}/d")
        os.symlink(target, f"l{n}")


def swap_for_ever() -> None:
    while True:
        for n in range(PAIRS):
            LIBC.renameat2(-100, f"x/d{n}".encode(), -100, f"l{n}".encode(), 2)  # AT_FDCWD, RENAME_EXCHANGE


TREES = pytest.mark.parametrize("fill", sampled([nest, close, mix], nest))


@pytest.fixture
def sessions() -> Iterator[Path]:
    """A sessions.dir that another user can pass through, removed without recursion."""
    directory = Path(tempfile.mkdtemp(prefix="bg"))
    directory.chmod(0o711)
    Store(str(directory)).ready()
    (directory / "uids").mkdir(0o700)
    yield directory
    subprocess.run(["rm", "-rf", str(directory)], check=True)


def as_user(directory: Path, work: Callable[[], object]) -> int:
    """Do some work as claude's user, in a process of its own; return its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(UID)
            os.chdir(directory)
            os.setuid(UID)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def fill_as_user(directory: Path, work: Callable[[], object]) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(as_user(directory, work), 0)[1]) == 0


def work_dir(sessions: Path, name: str = "turn") -> Path:
    """Make the directory of a turn as the handler and the runner do."""
    path = Store(str(sessions)).make_work_dir(sessions / "turns" / name)
    path.chmod(0o711)
    for directory in ("ssh", "home", "scraps"):
        (path / directory).mkdir(0o700)
    (path / "ssh/key").write_text("secret")
    (path / "shell").write_text("#!/bin/sh")
    hand_over(str(path), os.geteuid(), UID)
    (sessions / "uids" / str(UID)).touch()
    return path


def remove(sessions: Path, seconds: float = PATIENT_SECONDS) -> bool:
    return remove_handed(str(sessions), UID, time.monotonic() + seconds)


@TREES
def test_a_tree_of_our_own_is_removed(sessions: Path, fill: Callable[[], object]) -> None:
    """As with shared_uid: directories in one another, some that can't be entered, many side by side, odd files."""
    (sessions / "work/turn").mkdir()
    here = os.getcwd()
    os.chdir(sessions / "work/turn")
    try:
        fill()
    finally:
        os.chdir(here)
    remove_directory(str(sessions / "work/turn"), time.monotonic() + PATIENT_SECONDS)
    assert list((sessions / "work").iterdir()) == []
    remove_directory(str(sessions / "work/turn"), 0)  # another handler was first


@pytest.mark.real("root")
@TREES
def test_what_claude_made_is_removed(sessions: Path, fill: Callable[[], object]) -> None:
    """The runner removes it as claude's user, then the handler what is its own."""
    work = work_dir(sessions)
    fill_as_user(work / "scraps", fill)
    fill_as_user(work / "home", fill)
    assert remove(sessions)
    assert sorted(path.name for path in work.iterdir()) == ["shell", "ssh"]
    Store(str(sessions)).tidy(sessions / "turns/turn")
    assert not work.exists()


@pytest.mark.real("root")
def test_root_walks_no_tree_of_claudes(sessions: Path) -> None:
    """The handler leaves what is claude's user's. That user may not empty a directory of root's, which stays."""
    work = work_dir(sessions)
    fill_as_user(work / "home", lambda: Path("file").touch())
    inside = work / "scraps/inside"
    inside.mkdir(0o755)
    (inside / "file").touch()
    Store(str(sessions)).tidy(sessions / "turns/turn")
    assert (work / "home/file").exists()
    assert not (work / "ssh").exists()
    assert not remove(sessions)
    assert [path.name for path in work.iterdir()] == ["scraps"]
    assert (inside / "file").exists()


@pytest.mark.real("root")
def test_a_directory_that_becomes_a_link(sessions: Path) -> None:
    """While the tree is removed, a directory in it is exchanged with a link to one of root's, over and over."""
    kept = sessions / "kept"
    (kept / "d").mkdir(parents=True)
    (kept / "d/file").touch()
    work = work_dir(sessions)
    fill_as_user(work / "scraps", lambda: make_pairs(kept))
    swapper = as_user(work / "scraps", swap_for_ever)
    try:
        until((work / "scraps/x/d0").is_symlink, "the first exchange")
        remove(sessions, 3)
    finally:
        signal_process(swapper, signal.SIGKILL)
        os.waitpid(swapper, 0)
    assert remove(sessions)  # what the exchange kept from being removed
    assert (kept / "d/file").exists()


@pytest.mark.real("root")
def test_each_try_gets_further(sessions: Path) -> None:
    """A tree for which there is not enough time gets smaller with each try, so it is gone in the end."""
    work = work_dir(sessions)
    deep, seconds = 300, 0.05
    fill_as_user(work / "home", lambda: nest(deep))
    assert not remove(sessions, 0)
    while not remove(sessions, seconds):
        left = subprocess.run(["find", str(work / "home"), "-type", "d"], capture_output=True, text=True, check=True)
        found = len(left.stdout.splitlines()) - 1
        assert found <= deep
        if found == deep:  # beside other work, the time is over before the removal begins
            seconds *= 2
            assert seconds < PATIENT_SECONDS
        deep = found
    assert not (work / "home").exists()


@pytest.mark.real("root")
def test_what_an_earlier_turn_left_is_removed_by_a_later_one(sessions: Path) -> None:
    """Of a turn whose machine crashed, say; but nothing of a turn that runs, whose id is locked."""
    for name in ("crashed", "runs"):
        work = work_dir(sessions, name)
        fill_as_user(work / "home", lambda: Path("f0").touch())
        if name == "runs":
            for each in ("home", "scraps"):
                os.chown(work / each, UID + 1, UID + 1)
    lock = os.open(sessions / "uids" / str(UID + 1), os.O_RDWR | os.O_CREAT)
    try:
        assert LIBC.flock(lock, 2) == 0
        remove_left_over(str(sessions), time.monotonic() + PATIENT_SECONDS)
    finally:
        os.close(lock)
    assert sorted(path.name for path in (sessions / "work/crashed").iterdir()) == ["shell", "ssh"]
    assert (sessions / "work/runs/home/f0").exists()


def test_a_removal_has_a_deadline(sessions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left then is removed another time."""
    store, work = Store(str(sessions)), sessions / "work/turn"
    work.mkdir()
    (work / "file").touch()
    monkeypatch.setattr(chat_store, "REMOVAL_SECONDS", -1)
    store.tidy(sessions / "turns/turn")
    assert work.exists()
    monkeypatch.undo()
    store.prune()
    assert not work.exists()


@pytest.mark.real("root")
def test_only_the_handlers_own_directories_are_handed_over(sessions: Path) -> None:
    """A directory of another user, or a link in its place, is not given to claude's user."""
    work = work_dir(sessions)
    with pytest.raises(OSError, match="another user"):
        hand_over(str(work), os.geteuid(), UID + 1)
    kept = sessions / "kept"
    kept.mkdir()
    (work / "home").rmdir()
    (work / "home").symlink_to(kept)
    with pytest.raises(OSError, match=r"directory|symbolic"):
        hand_over(str(work), os.geteuid(), UID + 1)
    assert kept.stat().st_uid == os.geteuid()
