"""A transcript on its way into claude's home and out again: one regular file of claude's, and nothing else."""

import errno
import os
import resource
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from breakglass.chat.store import Store
from breakglass.claude.homes import MOST_BYTES, copy_in, copy_out, transcript_place
from breakglass.claude.processes import run_as

from ..support.claude import UIDS

SID = "0b6f3f6a-3d0f-4d0e-9d0f-1c2f3a4b5c6d"
UID = UIDS[0]
PLACE = transcript_place("/sessions/work/0123/cwd", SID)


@pytest.fixture
def home(short_dir: Path) -> Path:
    """The home of a turn, with a user of its own where the tests run as root."""
    short_dir.chmod(0o711)
    home = short_dir / "home"
    (home / "projects" / PLACE[1]).mkdir(parents=True)
    return home


def take(home: Path) -> tuple[int, bytes]:
    """Copy the transcript out as the runner does; return the exit of its process and what was copied."""
    target = os.open(home.parent / "new", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    uid = None
    if os.geteuid() == 0:
        uid = UID
        for path in (home, *home.rglob("*")):
            os.chown(path, UID, UID, follow_symlinks=False)
    try:
        return run_as(uid, lambda: copy_out(str(home), PLACE, target), time.monotonic() + 60), os.pread(target, 100, 0)
    finally:
        os.close(target)


def transcript(home: Path) -> Path:
    return home.joinpath(*PLACE)


def test_a_transcript_goes_in_and_out(home: Path) -> None:
    """Whole, under the name that the CLI gives it, for its user alone; what claude adds comes back."""
    (home.parent / "stored").write_bytes(b"one\n" * 600_000)
    new = home.parent / "empty"
    new.mkdir()
    with (home.parent / "stored").open("rb") as stored:
        copy_in(stored.fileno(), str(new), PLACE)
    found = new / "projects/-sessions-work-0123-cwd" / f"{SID}.jsonl"
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    assert stat.S_IMODE((new / "projects").stat().st_mode) == 0o700
    with found.open("ab") as file:
        file.write(b"two\n")
    target = os.open(home.parent / "out", os.O_RDWR | os.O_CREAT)
    os.write(target, b"x" * 3_000_000)  # of a copy that was cut off
    copy_out(str(new), PLACE, target)
    os.close(target)
    assert (home.parent / "out").read_bytes() == b"one\n" * 600_000 + b"two\n"


def test_half_a_transcript_is_not_claudes(short_dir: Path) -> None:
    """A copy that was cut off is none: taken out again, it would replace the whole one."""
    home = short_dir / "home"
    home.mkdir()
    (short_dir / "stored").write_bytes(b"one\n" * 600_000)

    def be_cut_off(stored: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        copy_in(stored, str(home), PLACE)

    with (short_dir / "stored").open("rb") as stored:
        assert run_as(None, lambda: be_cut_off(stored.fileno()), time.monotonic() + 60) == errno.EFBIG
    target = os.open(short_dir / "new", os.O_RDWR | os.O_CREAT)
    assert run_as(None, lambda: copy_out(str(home), PLACE, target), time.monotonic() + 60) == errno.ENOENT
    os.close(target)


def link(home: Path) -> None:
    (home / "other").write_text("claude's own")
    transcript(home).symlink_to(home / "other")


def link_above(home: Path) -> None:
    transcript(home).parent.rmdir()
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / PLACE[2]).write_text("claude's own")
    transcript(home).parent.symlink_to(home / "elsewhere")


def hard_link(home: Path) -> None:
    (home / "other").write_text("the handler's")
    os.link(home / "other", transcript(home))


def fifo(home: Path) -> None:
    os.mkfifo(transcript(home))


def listen(home: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(transcript(home).parent)
        listener.bind(PLACE[2])
        os.chdir(here)


def directory(home: Path) -> None:
    transcript(home).mkdir()


def sparse(home: Path) -> None:
    transcript(home).touch()
    os.truncate(transcript(home), 1 << 40)


def too_long(home: Path) -> None:
    transcript(home).touch()
    os.truncate(transcript(home), MOST_BYTES + 1)


def closed(home: Path) -> None:
    transcript(home).write_text("claude's")
    transcript(home).parent.chmod(0)


def device(home: Path) -> None:
    os.mknod(transcript(home), stat.S_IFCHR | 0o666, os.makedev(1, 5))  # /dev/zero


NEEDS_ROOT = pytest.mark.real("root")
ODD = [link, link_above, hard_link, fifo, listen, directory, sparse, too_long]
ODD_FOR_ROOT = [pytest.param(make, marks=NEEDS_ROOT) for make in (closed, device)]


@pytest.mark.parametrize("make", [*ODD, *ODD_FOR_ROOT])
def test_nothing_else_is_taken(home: Path, make: Callable[[Path], None]) -> None:
    """A link, a second name, a FIFO, a device, a directory, a huge file: nothing is copied, and nothing waits."""
    make(home)
    code, taken = take(home)
    assert code > 2
    assert taken == b""


def test_without_a_transcript_nothing_is_taken(home: Path) -> None:
    """The exit says so, and it is no failure."""
    assert take(home) == (2, b"")


@NEEDS_ROOT
def test_another_users_file_is_not_taken(home: Path) -> None:
    """Also if claude's user may read it."""
    transcript(home).write_text("the handler's")
    target = os.open(home.parent / "new", os.O_RDWR | os.O_CREAT, 0o600)
    assert run_as(UID, lambda: copy_out(str(home), PLACE, target), time.monotonic() + 60) > 2
    assert os.fstat(target).st_size == 0
    os.close(target)


def test_a_process_has_its_time(short_dir: Path) -> None:
    """One that does not end is killed, and what it raises is its exit."""
    assert run_as(None, lambda: time.sleep(600), time.monotonic() + 0.1) == -9
    assert run_as(None, lambda: os.mkdir(short_dir), time.monotonic() + 60) == 17
    assert run_as(None, lambda: None, time.monotonic() + 60) == 0


def test_the_files_of_a_session(short_dir: Path) -> None:
    """The new file is empty however the last turn ended; both are the handler's alone."""
    store = Store(str(short_dir))
    store.ready()
    first, is_unsaved = store.open_transcript(SID, is_first=True)
    assert (first.source, is_unsaved) == (-1, True)
    os.write(first.target, b"half")
    first.close()
    again, is_unsaved = store.open_transcript(SID, is_first=False)  # the first turn left nothing
    assert (again.source, is_unsaved) == (-1, True)
    again.close()
    (short_dir / "transcripts" / SID).write_text("stored")
    second, is_unsaved = store.open_transcript(SID, is_first=False)
    assert not is_unsaved
    assert os.read(second.source, 100) == b"stored"
    assert os.fstat(second.target).st_size == 0
    assert stat.S_IMODE(os.fstat(second.target).st_mode) == 0o600
    assert stat.S_IMODE(os.fstat(second.transcripts).st_mode) == 0o700
    second.close()
