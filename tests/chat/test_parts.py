"""Chat is `on` only while all that a turn needs is there, and `on` again once it is back, without a reload."""

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from breakglass.chat.parts import EarlierLooks, find_credential_fault, find_sessions_fault
from breakglass.client import new_id

from ..support.hung import unserved_fuse
from ..support.model import Model
from ..support.scripted_claude import ScriptedClaude
from ..support.signals import signal_process
from ..support.stages import until
from ..support.talk import Talker, last_error, started
from .test_launcher import launcher_of

pytestmark = pytest.mark.slow

# The handler looks often. It gives a look up early only where something hangs: on a busy machine, any look takes long.
OFTEN = "from breakglass.chat import service, parts; service.LOOK_SECONDS = 0.05; "
IMPATIENT = f"{OFTEN}parts.SECONDS = 0.1"
# It has mounts of its own: what a test hides from it is there for all others.
OWN_MOUNTS = "import ctypes; assert ctypes.CDLL(None).unshare(0x20000) == 0"


@pytest.fixture(scope="module")
def claude(directory: Path) -> ScriptedClaude:
    claude = ScriptedClaude(directory)
    claude.play_prompts()
    return claude


@pytest.fixture(scope="module")
def talker(claude: ScriptedClaude, model: Model, directory: Path) -> Iterator[Talker]:
    with started(Talker(directory, model, chat=claude.chat, patched=OFTEN + "pass")) as talker:
        talker.wait_for_chat("on")
        assert talker.chat("hello")[-1]["ok"] is True
        yield talker


@contextlib.contextmanager
def moved(path: Path) -> Iterator[None]:
    away = path.with_name(f"{path.name}-away")
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)


@contextlib.contextmanager
def emptied(path: Path) -> Iterator[None]:
    content = path.read_bytes()
    os.truncate(path, 0)
    try:
        yield
    finally:
        path.write_bytes(content)


def events(talker: Talker, *names: str) -> list[tuple[str, str, str]]:
    lines = [json.loads(line) for line in talker.log().splitlines()]
    names = names or ("chat-up", "chat-down")
    return [(line["event"], line["state"], line["why"]) for line in lines if line["event"] in names]


def wait_for_log(talker: Talker) -> None:
    """Return once the log has all that was noted so far: its thread writes a later request behind that."""
    last = new_id()
    talker.pve("status", msg_id=last)
    talker.logged(last)


def program(talker: Talker) -> Path:
    [line] = [line for line in talker.config.read_text().splitlines() if line.startswith("command = ")]
    return Path(json.loads(line.removeprefix("command = ")))


def count_threads(talker: Talker) -> int:
    return len(list(Path(f"/proc/{talker.process.pid}/task").iterdir()))


LOSSES: dict[str, tuple[str, Callable[[Talker], AbstractContextManager[None]]]] = {
    "the program": ("claude-missing", lambda talker: moved(program(talker))),
    "the credential file": ("credential-missing", lambda talker: moved(talker.credential)),
    "its content": ("credential-missing", lambda talker: emptied(talker.credential)),
    "sessions.dir": ("sessions-unwritable", lambda talker: moved(talker.sessions)),
    "a directory in it": ("sessions-unwritable", lambda talker: moved(talker.sessions / "locks")),
}


@pytest.mark.parametrize("what", LOSSES)
def test_what_goes_away_and_comes_back(talker: Talker, what: str) -> None:
    """The state has a code meanwhile, /ready a reason, the log a line with the path, and verbs are answered."""
    code, lost = LOSSES[what]
    talker.wait_for_chat("on")
    wait_for_log(talker)
    before = len(events(talker))
    with lost(talker):
        talker.wait_for_chat(code)
        assert talker.health()["chat_isolated"] is None
        assert "Chat is configured and does not work." in talker.send("GET", "/ready").json["reasons"]
        assert talker.pve("status").json["outcome"] == "unreached"
    talker.wait_for_chat("on")
    assert talker.health()["chat_isolated"] is False
    wait_for_log(talker)
    [(down, state, why), up] = events(talker)[before:]
    assert (down, state, up) == ("chat-down", code, ("chat-up", "on", ""))
    assert str(talker.directory) in why


def test_a_turn_is_tried_all_the_same(talker: Talker) -> None:
    """The look may be old: a turn says by itself what it lacks."""
    with moved(program(talker)):
        talker.wait_for_chat("claude-missing")
        assert last_error(talker.chat("hello"))["code"] == "claude-missing"
    assert talker.chat("hello")[-1]["ok"] is True


def test_it_is_said_from_the_start(model: Model, directory: Path, tmp_path: Path) -> None:
    """The first state that /health shows after the start is the true one; a reload looks at once, too."""
    with started(Talker(directory, model, chat=f"command = {json.dumps(str(tmp_path / 'claude'))}")) as talker:
        talker.wait_for_chat("claude-missing")
        with talker.changed(str(tmp_path / "claude"), "/bin/true"):
            talker.wait_for_chat("on")
        until(lambda: len(events(talker, "chat")) == 3, "the log to have three states")
        assert [state for _, state, _ in events(talker, "chat")] == ["claude-missing", "on", "claude-missing"]


@pytest.mark.all
@pytest.mark.real("mounts", "bwrap")
def test_the_sandbox_goes_away(model: Model, claude: ScriptedClaude, directory: Path) -> None:
    """Bubblewrap is hidden from a handler that has seen it."""
    with started(Talker(directory, model, chat=claude.chat, patched=OFTEN + OWN_MOUNTS)) as talker:
        talker.wait_for_chat("on")
        inside = ["nsenter", f"--mount=/proc/{talker.process.pid}/ns/mnt"]
        subprocess.run([*inside, "mount", "--make-rprivate", "/"], check=True)
        subprocess.run([*inside, "mount", "--bind", "/dev/null", "/usr/bin/bwrap"], check=True)
        talker.wait_for_chat("sandbox-missing")
        subprocess.run([*inside, "umount", "/usr/bin/bwrap"], check=True)
        talker.wait_for_chat("on")


@pytest.mark.real("fuse")
def test_a_sessions_dir_that_hangs(model: Model, claude: ScriptedClaude, directory: Path) -> None:
    """It is a state and hangs nothing: verbs, /health, a reload and the other parts are looked at meanwhile."""
    (directory / "hangs").mkdir()
    sessions = directory / "hangs/sessions"
    with started(Talker(directory, model, sessions=sessions, chat=claude.chat, patched=IMPATIENT)) as talker:
        talker.wait_for_chat("on")
        with unserved_fuse(directory / "hangs"):
            talker.wait_for_chat("sessions-unwritable")
            talker.logged("did not end within")
            assert talker.pve("status").json["outcome"] == "unreached"
            threads = count_threads(talker)
            for _ in range(4):  # eight looks at least
                with moved(talker.credential):
                    talker.wait_for_chat("credential-missing")
                talker.wait_for_chat("sessions-unwritable")
            assert count_threads(talker) <= threads + 3  # those of the other parts; the one that hangs is one
        talker.wait_for_chat("on")


@pytest.mark.all
@pytest.mark.real("fuse")
def test_a_sessions_dir_that_hangs_at_the_start(model: Model, claude: ScriptedClaude, directory: Path) -> None:
    """The check of isolation waits for it, also after a reload; then chat is on by itself."""
    (directory / "late").mkdir()
    sessions = directory / "late/sessions"
    with contextlib.ExitStack() as hung:
        hung.enter_context(unserved_fuse(directory / "late"))
        with started(Talker(directory, model, sessions=sessions, chat=claude.chat, patched=IMPATIENT)) as talker:
            talker.wait_for_chat("sessions-unwritable")
            reply = talker.ask(prompt="hello")
            assert (reply.status, reply.json["error"]["code"]) == (503, "chat-disabled")
            talker.change("[chat]\n", "[chat]\n# again\n")
            talker.wait_for_chat("sessions-unwritable")
            assert talker.pve("status").json["outcome"] == "unreached"
            hung.close()
            talker.wait_for_chat("on")
            assert talker.chat("hello")[-1]["ok"] is True


@pytest.mark.all
def test_a_launcher_that_is_late(model: Model, claude: ScriptedClaude, directory: Path) -> None:
    """As on a machine that boots: chat is off meanwhile and says so, and is on by itself."""
    late = f"{OFTEN}from breakglass.chat import launcher; launcher.CHECK_SECONDS = 3.0"
    (directory / "hasty").mkdir()
    with started(Talker(directory / "hasty", model, chat=claude.chat, patched=late)) as talker:
        talker.wait_for_chat("on")
        pid = launcher_of(talker)
        signal_process(pid, signal.SIGSTOP)
        try:
            talker.change("[chat]\n", "[chat]\n# again\n")
            talker.wait_for_chat("failed")
            reply = talker.ask(prompt="hello")
            assert (reply.status, reply.json["error"]["code"]) == (503, "chat-disabled")
            assert "the launcher did not answer in 3 s" in reply.json["error"]["message"]
            assert "Breakglass asks it again by itself" in reply.json["error"]["hint"]
            assert talker.pve("status").json["outcome"] == "unreached"
        finally:
            signal_process(pid, signal.SIGCONT)
        talker.wait_for_chat("on")
        assert talker.chat("hello")[-1]["ok"] is True


@pytest.mark.real("mounts")
def test_a_sessions_dir_that_is_read_only(tmp_path: Path) -> None:
    """Also for root, whom no mode keeps out."""
    for name in ("turns", "locks", "transcripts"):
        (tmp_path / "sessions" / name).mkdir(parents=True)
    assert find_sessions_fault(str(tmp_path / "sessions"), EarlierLooks()) == ""
    subprocess.run(["mount", "--bind", str(tmp_path / "sessions"), str(tmp_path / "sessions")], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(tmp_path / "sessions")], check=True)
        assert "read-only" in find_sessions_fault(str(tmp_path / "sessions"), EarlierLooks())
    finally:
        subprocess.run(["umount", str(tmp_path / "sessions")], check=True)


@pytest.mark.real("mounts")
def test_a_sessions_dir_that_is_full(tmp_path: Path) -> None:
    """As a turn would find it: less than 16 MiB are left."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(tmp_path)], check=True)
    try:
        for name in ("turns", "locks", "transcripts"):
            (tmp_path / name).mkdir()
        assert "16 MiB" in find_sessions_fault(str(tmp_path), EarlierLooks())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_credential_that_came_through_a_pipe() -> None:
    """It can't be there again, and that is no fault."""
    assert find_credential_fault("/dev/fd/63", {}) == ""
    assert "can't be found" in find_credential_fault(
        "$CREDENTIALS_DIRECTORY/key", {"CREDENTIALS_DIRECTORY": "/nowhere"}
    )
