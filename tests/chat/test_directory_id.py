"""Two handlers with a sessions.dir each: a session's token names its own, so no turn of it runs at the other one."""

import os
import subprocess
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from breakglass.chat.sessions import seal, unseal
from breakglass.claude.directory_id import find_directory_id, read_directory_id

from ..support.scripted_claude import ScriptedClaude
from ..support.service import Reply
from ..support.sshd import descendants
from ..support.stages import until
from ..support.talk import Talker, fake, started

pytestmark = pytest.mark.slow

WAITING = {"text": "one two three four five six seven eight", "wait": "elsewhere"}


@pytest.fixture(scope="module")
def elsewhere(talker: Talker) -> Iterator[Talker]:
    """A second handler with the same secrets and a sessions.dir of its own."""
    with started(talker.replica(talker.directory / "elsewhere")) as other:
        other.wait_for_chat("on")
        yield other


def refusal(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.json["error"]["code"]


# --- at a handler ---


def test_another_directory_is_noticed(talker: Talker, elsewhere: Talker, claude: ScriptedClaude) -> None:
    """A session that began at one handler is refused by the other one, and claude is not started there."""
    session = talker.chat("hello")[0]["session"]
    before = len(claude.calls)
    reply = elsewhere.ask(prompt="and now?", session=session)
    assert refusal(reply) == (409, "session-elsewhere")
    assert "sessions.dir" in reply.json["error"]["message"]
    assert reply.json["error"]["reached"] is False
    assert len(claude.calls) == before
    assert talker.chat("and now?", session=session)[-1]["ok"] is True
    assert elsewhere.chat("hello")[-1]["ok"] is True


def test_a_turn_can_neither_be_followed_nor_stopped_there(
    talker: Talker, elsewhere: Talker, claude: ScriptedClaude
) -> None:
    """With its session, attach and cancel say why; without, as before, that there is no such turn. It runs on."""
    with talker.open(prompt=fake(WAITING)) as stream:
        session = stream.until("session")["session"]
        assert refusal(elsewhere.ask(attach=stream.turn, session=session)) == (409, "session-elsewhere")
        assert refusal(elsewhere.ask(cancel=stream.turn, session=session)) == (409, "session-elsewhere")
        assert refusal(elsewhere.ask(cancel=stream.turn)) == (404, "turn-unknown")
        assert refusal(talker.ask(attach="msg_12345678", session=session)) == (404, "turn-unknown")
        with talker.open(attach=stream.turn, session=session) as again:
            again.until("text")
            claude.release("elsewhere")
            assert again.rest()[-1]["ok"] is stream.rest()[-1]["ok"] is True


def test_health_tells_them_apart(talker: Talker, elsewhere: Talker) -> None:
    """Handlers that share the directory say the same name, and no one can read the id from it."""
    own = read_directory_id(str(talker.sessions))
    assert len(own) == 32
    with started(talker.replica()) as replica:
        replica.wait_for_chat("on")
        names = [each.health()["chat_sessions"] for each in (talker, replica, elsewhere)]
    assert names[0] == names[1] != names[2]
    assert names[0] not in own
    assert all(len(name) == 8 for name in names)


def test_an_older_token_goes_on(talker: Talker) -> None:
    """One that names no directory is as good as before, for its 30 days; the next one names it."""
    keys = [tomllib.loads(talker.config.read_text())["sessions"]["secret"]]
    events = talker.chat("hello")
    session = unseal(events[0]["session"], keys, "operator", 0)
    assert session.directory == read_directory_id(str(talker.sessions))
    older = seal(session.__class__(session.sid, session.caller, session.vm, session.exp), keys)
    events = talker.chat("go on", session=older)
    assert (events[0]["resumed"], events[-1]["ok"]) == (True, True)
    assert unseal(events[0]["session"], keys, "operator", 0).directory == session.directory


@pytest.mark.all
def test_a_backup_that_is_put_back(talker: Talker) -> None:
    """It has the id of the directory that was lost, so its sessions go on."""
    session = talker.chat("hello")[0]["session"]
    backup, launchers = talker.directory / "backup", descendants(talker.process.pid)
    talker.stop()  # it may neither write nor remove a file while it is copied here
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in launchers), "the end of the launcher")
    subprocess.run(["cp", "-a", str(talker.sessions), str(backup)], check=True)
    talker.start()
    talker.wait_for_chat("on")
    with started(talker.replica(backup)) as other:
        other.wait_for_chat("on")
        assert other.chat("go on", session=session)[-1]["ok"] is True


def test_a_directory_that_lost_its_id(talker: Talker) -> None:
    """The next turn makes another one. The sessions from before are refused, and their turns were not run twice."""
    session = talker.chat("hello")[0]["session"]
    own, away = talker.sessions / "id", talker.directory / "id-away"
    with ExitStack() as ends:
        if os.geteuid() == 0:
            ends.callback(talker.change, "# again\n", "")  # last, so that the handler learns the old id again
        own.rename(away)
        ends.callback(away.replace, own)
        if os.geteuid() == 0:
            talker.change("[sessions]\n", "[sessions]\n# again\n")  # only the launcher makes one, at a reload
        assert refusal(talker.ask(prompt="go on", session=session)) == (409, "session-elsewhere")
    assert talker.chat("go on", session=session)[-1]["ok"] is True


# --- the file ---


def test_two_handlers_make_one_id(tmp_path: Path) -> None:
    """Whichever is first, and however many come at once."""
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(find_directory_id, [str(tmp_path)] * 64))
    assert len(found) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["id"]
    assert (tmp_path / "id").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "x" * 32, "0" * 31 + "\n", "0" * 33 + "\n", "0" * 32 + "\n\n"])
def test_a_damaged_id_is_none(tmp_path: Path, content: str) -> None:
    """It is neither believed nor replaced: its sessions are as good as without one."""
    (tmp_path / "id").write_text(content)
    assert find_directory_id(str(tmp_path)) == ""
    assert (tmp_path / "id").read_text() == content


def test_what_is_no_file_is_none(tmp_path: Path) -> None:
    """Neither a link nor a pipe is followed, and neither blocks."""
    (tmp_path / "elsewhere").write_text("0" * 32 + "\n")
    (tmp_path / "id").symlink_to("elsewhere")
    assert find_directory_id(str(tmp_path)) == ""
    (tmp_path / "id").unlink()
    os.mkfifo(tmp_path / "id")
    assert find_directory_id(str(tmp_path)) == ""
    assert find_directory_id(str(tmp_path / "missing")) == ""


@pytest.mark.real("mounts")
def test_a_read_only_directory_without_one(tmp_path: Path) -> None:
    """There is none, and nothing is left behind; one that is there can be read."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        assert find_directory_id(str(tmp_path)) == ""
        subprocess.run(["mount", "-o", "remount,rw", str(tmp_path)], check=True)
        own = find_directory_id(str(tmp_path))
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path)], check=True)
        assert find_directory_id(str(tmp_path)) == own != ""
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
