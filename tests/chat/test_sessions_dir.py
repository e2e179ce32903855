"""What sessions.dir can do to a turn: full, read-only, hanging; and how long turns and transcripts are kept."""

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from breakglass.chat import sessions_dir
from breakglass.chat.request import SessionsUnwritable
from breakglass.chat.sessions import LIFETIME
from breakglass.chat.store import Store
from breakglass.claude.isolation import HANDLERS

from ..support.hung import unserved_fuse
from ..support.model import Model
from ..support.scripted_claude import TEXT, ScriptedClaude
from ..support.stages import until
from ..support.talk import Talker, last_error, started

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def claude(directory: Path) -> ScriptedClaude:
    return ScriptedClaude(directory)


@contextlib.contextmanager
def mounted(directory: Path, size: str) -> Iterator[Path]:
    path = directory / "mounted"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
        path.rmdir()


@pytest.mark.all
@pytest.mark.real("mounts")
def test_a_full_or_read_only_disk(directory: Path, model: Model, claude: ScriptedClaude) -> None:
    """The request is answered with an error before the turn starts, so that no conversation is lost."""
    claude.play_prompts()
    before = len(claude.calls)
    sessions = directory / "mounted/sessions"
    with (
        mounted(directory, "20m") as path,
        started(Talker(directory, model, sessions=sessions, chat=claude.chat)) as talker,
    ):
        session = talker.chat("hello")[0]["session"]
        (path / "ballast").write_bytes(bytes(8 << 20))
        reply = talker.ask(prompt="hello", session=session)
        assert (reply.status, reply.json["error"]["code"]) == (503, "sessions-unwritable")
        assert "16 MiB" in reply.json["error"]["message"]
        (path / "ballast").unlink()
        remount = ["mount", "-o", "remount,ro", str(path)]
        until(  # the last turn's runner is about to close its files
            lambda: subprocess.run(remount, stderr=subprocess.DEVNULL).returncode == 0, "a read-only mount"
        )
        reply = talker.ask(prompt="hello", session=session)
        assert (reply.status, reply.json["error"]["code"]) == (503, "sessions-unwritable")
        assert "read-only" in reply.json["error"]["message"].lower()
        assert talker.pve("status").json["outcome"] == "unreached"
        assert len(claude.calls) == before + 1
        subprocess.run(["mount", "-o", "remount,rw", str(path)], check=True)
        assert talker.chat("hello", session=session)[-1]["ok"] is True


@pytest.mark.all
@pytest.mark.real("mounts")
def test_a_disk_that_fills_up_in_a_turn(directory: Path, model: Model, claude: ScriptedClaude) -> None:
    """The turn is stopped with an error, and its log can be read as far as it goes."""
    fill = "head -c 60M /dev/zero > mounted/ballast 2>/dev/null\n"
    claude.play(TEXT + f"cd {directory}\n{fill}while true; do {TEXT.strip()}; done")
    sessions = directory / "mounted/sessions"
    with mounted(directory, "20m"), started(Talker(directory, model, sessions=sessions, chat=claude.chat)) as talker:
        assert last_error(talker.chat("hello"))["code"] == "claude-crashed"


@pytest.mark.all
@pytest.mark.real("fuse")
def test_a_disk_that_hangs(directory: Path, model: Model, claude: ScriptedClaude) -> None:
    """A turn waits for the disk and is given up; neither the verbs nor the handler's end wait for it."""
    claude.play_prompts()
    # at its end the handler waits for requests, turns and the launcher for 1 s, instead of 5 s, 4 s and 3 s
    patched = (
        "from breakglass.server import server; from breakglass.chat import turns; import breakglass.cli.serve as cli; "
    )
    patched += "server.SHUTDOWN_SECONDS = turns.STOP_SECONDS = cli.LAUNCHER_SECONDS = 1"
    with started(Talker(directory, model, sessions=directory / "hangs", chat=claude.chat, patched=patched)) as talker:
        assert talker.chat("hello")[-1]["ok"] is True
        with unserved_fuse(directory / "hangs"), ThreadPoolExecutor() as pool:
            turn = pool.submit(talker.ask, prompt="hello")
            waited = False  # a verb was answered while the turn had no answer
            for _ in range(20):
                assert talker.pve("status").json["outcome"] == "unreached"
                assert talker.health()["ok"] is True
                waited = waited or not turn.done()
            assert waited
            talker.stop()
            turn.exception(100)


async def test_a_call_that_does_not_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is given up after its time, and another thread serves the next one."""
    monkeypatch.setattr(sessions_dir, "SECONDS", 0.2)
    released = threading.Event()
    threads = sessions_dir.SessionsDisk()
    with pytest.raises(SessionsUnwritable, match="did not answer"):
        await threads.run(released.wait)
    monkeypatch.setattr(sessions_dir, "SECONDS", 60)
    assert await threads.run(lambda: 7) == 7
    released.set()


def test_logs_are_the_handlers_alone(tmp_path: Path) -> None:
    """No other user can read the events, the locks or the transcripts."""
    Store(str(tmp_path)).ready()
    for name in HANDLERS:
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o700


def test_a_transcript_is_kept_as_long_as_its_token(tmp_path: Path) -> None:
    """Transcripts of the last 30 days stay: the time of the session's last turn counts, and a turn that runs."""
    store = Store(str(tmp_path))
    store.ready()
    sids = {name: f"0b6f3f6a-3d0f-4d0e-9d0f-00000000000{n}" for n, name in enumerate(("old", "new", "runs"))}
    for name, sid in sids.items():
        lock = store.lock(sid)
        assert lock is not None
        store.open_transcript(sid, is_first=False)[0].close()
        (tmp_path / "transcripts" / sid).touch()
        os.utime(lock, (1, time.time() - (LIFETIME - 60 if name == "new" else LIFETIME + 60)))
        if name != "runs":
            os.close(lock)
    store.prune()
    left = [sids[name] for name in ("new", "runs")]
    assert sorted(path.name for path in (tmp_path / "locks").iterdir()) == left
    assert {path.name.removesuffix(".new") for path in (tmp_path / "transcripts").iterdir()} == {*left}


def test_turns_are_kept_for_thirty_days(tmp_path: Path) -> None:
    """Then they are removed, unless a process has them locked."""
    store = Store(str(tmp_path))
    held, old, new = (store.turn_dir("operator", name) for name in ("held", "old", "new"))
    fds = [store.claim(turn_dir, {"vm": "devvm"}, {"type": "session", "n": 1}) for turn_dir in (held, old, new)]
    now = time.time()
    for turn_dir, age in ((held, LIFETIME + 60), (old, LIFETIME + 60), (new, LIFETIME - 60)):
        os.utime(turn_dir / "log", (1, now - age))
    for fd in fds[1:]:
        assert fd is not None
        os.close(fd)
    store.prune()
    assert (held.exists(), old.exists(), new.exists()) == (True, False, True)
    shutil.rmtree(tmp_path / "turns")
