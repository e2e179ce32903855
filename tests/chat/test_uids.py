"""A user id for each turn: no two turns share one, none is used while something of it is left. No real claude."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.chat.store import Store
from breakglass.claude import uids as claude_uids
from breakglass.claude.uids import NoFreeUid, claim_uid, hand_over

from ..support.claude import UID_RANGE, UIDS
from ..support.model import Model
from ..support.naps import find_processes, nap, outermost, parent, wait_for_process, wait_until_gone
from ..support.scripted_claude import RESULT, TEXT, ScriptedClaude
from ..support.signals import signal_process
from ..support.stages import until
from ..support.talk import Talker, answer_text, last_error, started

pytestmark = [pytest.mark.real("root"), pytest.mark.slow]

UID = UIDS[0]
PLACES = f'uids = "{UID_RANGE}"\nmax_turns_at_once = 8'
MARK = nap(91)


@pytest.fixture
def sessions(short_dir: Path) -> Path:
    short_dir.chmod(0o711)
    Store(str(short_dir)).ready()
    return short_dir


def claim(sessions: Path, count: int = 1) -> tuple[int, int]:
    return claim_uid(range(UID, UID + count), str(sessions))


def make_turn(sessions: Path, uid: int) -> Path:
    """Make the directory of a turn that has been handed over to a user, with a file."""
    work = sessions / "work" / os.urandom(4).hex()
    work.mkdir(0o711)
    for name in claude_uids.HANDED:
        (work / name).mkdir(0o700)
    hand_over(str(work), os.geteuid(), uid)
    (work / "home/file").touch()
    os.chown(work / "home/file", uid, uid)
    return work


# --- taking one ---


def test_each_turn_has_another_id(sessions: Path) -> None:
    """Until all are taken; one is free again once no process has its lock."""
    taken = [claim(sessions, 3) for _ in range(3)]
    assert sorted(uid for uid, _ in taken) == [UID, UID + 1, UID + 2]
    with pytest.raises(NoFreeUid, match="none of the 3 user ids"):
        claim(sessions, 3)
    os.close(taken[1][1])
    again = claim(sessions, 3)
    assert again[0] == taken[1][0]
    for lock in (taken[0][1], taken[2][1], again[1]):
        os.close(lock)


def test_an_id_with_a_process_is_not_taken(sessions: Path) -> None:
    """Whatever has started it, and although its lock is free."""
    with subprocess.Popen(["sleep", "600"], user=UID) as process:
        try:
            with pytest.raises(NoFreeUid):
                claim(sessions)
            uid, lock = claim(sessions, 2)
            assert uid == UID + 1
            os.close(lock)
        finally:
            process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still in the list
        uid, lock = claim(sessions)
        assert uid == UID
        os.close(lock)


def test_what_is_left_of_an_id_goes_before_it_is_used(sessions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id of which nothing is left comes first. Where there is no time for the removal, the id is not used."""
    work = make_turn(sessions, UID)
    uid, lock = claim(sessions, 2)
    assert (uid, (work / "home/file").exists()) == (UID + 1, True)
    os.close(lock)
    with monkeypatch.context() as patched:
        patched.setattr(claude_uids, "REMOVAL_SECONDS", -1)
        with pytest.raises(NoFreeUid):
            claim(sessions)
    uid, lock = claim(sessions)
    assert (uid, list(work.iterdir())) == (UID, [])
    os.close(lock)


@pytest.mark.parametrize("what", ["another user's", "a link", "a link for a lock"])
def test_the_locks_are_ours(sessions: Path, what: str) -> None:
    """Another user's directory holds no lock, and no link is followed."""
    kept = sessions / "kept"
    kept.mkdir()
    if what == "another user's":
        (sessions / "uids").mkdir()
        os.chown(sessions / "uids", UID + 1, UID + 1)
    elif what == "a link":
        (sessions / "uids").symlink_to(kept)
    else:
        (sessions / "uids").mkdir()
        (sessions / "uids" / str(UID)).symlink_to(kept / "file")
    with pytest.raises(OSError, match=r"another user|directory|symbolic"):
        claim(sessions)
    assert list(kept.iterdir()) == []


# --- with a handler ---


@pytest.fixture(scope="module")
def claude(directory: Path) -> ScriptedClaude:
    directory.chmod(0o711)
    program = ScriptedClaude(directory)
    program.directory.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def module_talker(claude: ScriptedClaude, model: Model, directory: Path) -> Iterator[Talker]:
    with started(Talker(directory, model, chat=f"{PLACES}\n{claude.chat}", metrics=True)) as talker:
        yield talker


@pytest.fixture
def talker(module_talker: Talker) -> Talker:
    """A handler for the tests that leave it as it was; the turns of earlier ones have ended."""
    module_talker.wait_for_places()
    return module_talker


# what claude keeps of a session: a line for each turn
TRANSCRIPT = """
sid=; for each; do case $each in --session-id=*|--resume=*) sid=${each#*=};; esac; done
place=$HOME/projects/${PWD//[^A-Za-z0-9]/-}
mkdir -p $place
transcript=$place/$sid.jsonl
"""
SAY = """printf '{"type":"assistant","message":{"id":"s","content":[{"type":"text","text":"%s"}]}}\\n' """


def run_as_user(uid: int, command: list[str]) -> int:
    """Run a command as a user, without any wall; return its exit."""
    return subprocess.run(command, user=uid, group=uid, extra_groups=(), capture_output=True).returncode


@pytest.mark.real("bwrap")
def test_two_turns_reach_nothing_of_each_other(talker: Talker, claude: ScriptedClaude) -> None:
    """Neither behind their walls nor without them: files of one are closed to the other, and no signal arrives."""
    until(lambda: not list(talker.sessions.glob("work/*")), "the directories of earlier turns are removed")
    claude.play(f"echo mine >$HOME/file; echo mine >$CLAUDE_CODE_TMPDIR/file; {MARK} &\n{TEXT}wait")
    with talker.open(prompt="one") as stream:
        stream.until("text")
        wait_for_process(MARK)
        [work] = (talker.sessions / "work").iterdir()
        [process] = find_processes(MARK)
        files = [work / "home/file", work / "scraps/file"]
        tries = f"cat {files[0]} {files[1]} && said=read; ls {work} && said=seen; kill -9 {process} -1"
        claude.play(f"said=nothing; {{ {tries}; }} >&2\n{SAY} $said:$(id -u)\n{RESULT}")
        output, _, uid = answer_text(talker.chat("two", caller="operator2")).partition(":")
        assert output == "nothing"
        owner = Path(f"/proc/{process}").stat().st_uid
        assert owner != int(uid)
        assert {path.parent.stat().st_uid for path in files} == {owner}
        for command in (["kill", "-9", str(process)], ["cat", str(files[0])], ["ls", str(work / "scraps")]):
            assert run_as_user(int(uid), command) != 0, command
        assert run_as_user(owner, ["kill", "-0", str(process)]) == run_as_user(owner, ["cat", str(files[0])]) == 0
        assert find_processes(MARK) == [process]
        assert talker.ask(cancel=stream.turn).status == 202
        stream.rest()
    until(lambda: not list((talker.sessions / "work").iterdir()), "the turns' directories are removed")


# asks a proxy for a message of a strange length, for the status
_ASK = r"""
exec 5<>/dev/tcp/127.0.0.1/{port} &&
    printf 'POST /v1/messages HTTP/1.1\r\nx-api-key: {token}\r\ncontent-length: x\r\n\r\n' >&5 &&
    read -r _ status _ <&5
"""


@pytest.mark.real("bwrap")
def test_two_turns_reach_no_proxy_of_each_other(talker: Talker, claude: ScriptedClaude) -> None:
    """Neither with the other's address nor with its token; each reaches its own with its own."""
    own = _ASK.format(port="${ANTHROPIC_BASE_URL##*:}", token="'$ANTHROPIC_API_KEY'")
    claude.play(f"{own}\n{SAY} $status:$ANTHROPIC_BASE_URL:$ANTHROPIC_API_KEY\nsleep 600")
    with talker.open(prompt="one") as stream:
        stream.until("text")
        status, *_, port, token = answer_text(stream.seen).split(":")
        assert status == "411"  # it has the token, and wants another length
        claude.play(f"{_ASK.format(port=port, token=token)}\n{SAY} status:$status\n{RESULT}")
        assert answer_text(talker.chat("two", caller="operator2")) in ("status:", "status:401")  # ports may be the same
        assert talker.ask(cancel=stream.turn).status == 202
        stream.rest()


@pytest.mark.all
@pytest.mark.real("bwrap")
def test_when_no_id_is_free(talker: Talker, claude: ScriptedClaude, model: Model) -> None:
    """Another handler has the only one: the turn is refused, with the reason, and its session can begin later."""
    claude.play(f"{TEXT}{RESULT}")
    assert talker.chat("hello")[-1]["ok"] is True
    talker.wait_for_places()
    with (talker.sessions / "uids" / str(UIDS[1])).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with talker.changed(PLACES, f'uids = "{UIDS[1]}-{UIDS[1]}"\nmax_turns_at_once = 1'):
            refused = talker.chat("hello")
            error = last_error(refused)
            assert (error["code"], "chat.uids" in error["message"]) == ("busy", True)
            fcntl.flock(lock, fcntl.LOCK_UN)
            until(lambda: talker.chat("hello")[-1]["ok"] is True, "a turn in the only place, which is freed last")
            # claude has no conversation of that id, and is told why
            claude.play(f"""\
case "$*" in *--resume*) echo "No conversation found" >&2; exit 1;; esac
grep -q "before this was saved" || exit 9
{TEXT}{RESULT}""")
            session = refused[0]["session"]
            until(lambda: talker.chat("hello", session=session)[-1]["ok"] is True, "a turn of the session")


def remember(word: str, then: str = RESULT) -> str:
    """Return a script that says what it remembers, adds a word, and ends."""
    return f'{TRANSCRIPT}{SAY} "$(cat $transcript 2>/dev/null | tr -d "\\n")"\necho {word} >>$transcript\n{then}'


KILLED = {
    "worker": "onetwo",
    "standby": "onetwo",
    "standby worker handler": "one",
}


@pytest.mark.all
@pytest.mark.real("bwrap")
@pytest.mark.parametrize("who", KILLED)
def test_what_a_killed_turn_said_is_kept(claude: ScriptedClaude, model: Model, directory: Path, who: str) -> None:
    """The process that stands by saves it, or the worker. When both are killed, the session goes on before that turn.

    Nothing of the killed turn is left after the next one.
    """
    chat = f'uids = "{UID_RANGE}"\n{claude.chat}'
    with started(Talker(directory, model, sessions=directory / f"killed{len(who)}", chat=chat)) as talker:
        claude.play(remember("one"))
        first = talker.chat("one")[0]
        claude.play(remember("two", f"{MARK} & wait"))
        with talker.open(prompt="two", session=first["session"]) as stream:
            stream.until("text")
            wait_for_process(MARK)
            worker = parent(outermost(find_processes(f"--resume={first['id']}")))
            both = {"standby": parent(worker), "worker": worker}
            victims = [pid for name, pid in both.items() if name in who]
            for victim in victims:
                signal_process(victim, signal.SIGSTOP)  # so that the end of one is no news for the other
            if "handler" in who:
                talker.kill()
            for victim in victims:
                signal_process(victim, signal.SIGKILL)
            wait_until_gone(MARK)
        with started(talker.replica()) as other:
            claude.play(remember("three"))
            with other.open(attach=stream.turn) as again:
                again.rest()
            assert answer_text(other.chat("three", session=first["session"])) == KILLED[who]
            claude.play(remember("four"))
            assert answer_text(other.chat("four", session=first["session"])) == f"{KILLED[who]}three"
            until(
                lambda: not any(path.exists() for path in (other.sessions / "work").glob("*/home")), "nothing is left"
            )


@pytest.mark.real("bwrap")
def test_a_transcript_that_is_none_is_reported(talker: Talker, claude: ScriptedClaude) -> None:
    """The answer is there, and the error says that the conversation was not saved; it goes on where it was."""
    claude.play(remember("one"))
    first = talker.chat("one")[0]
    claude.play(remember("two", f"rm $transcript; mkfifo $transcript\n{RESULT}"))
    events = talker.chat("two", session=first["session"])
    assert answer_text(events) == "one"
    error = last_error(events)
    assert (error["code"], "could not be saved" in error["message"]) == ("session-lost", True)
    claude.play(remember("three"))
    assert answer_text(talker.chat("three", session=first["session"])) == "one"
    names = [path.name for path in (talker.sessions / "transcripts").iterdir()]
    assert first["id"] in names
    assert [name for name in names if name.endswith(".new")] == []


@pytest.mark.real("bwrap")
def test_a_turn_has_its_own_transcript_alone(talker: Talker, claude: ScriptedClaude) -> None:
    """Whatever claude left in its home beside it is gone at the next turn, and other sessions' are not there."""
    claude.play(remember("one", f"touch $HOME/more $place/{'0' * 8}.jsonl\n{RESULT}"))
    first = talker.chat("one")[0]
    talker.chat("one", caller="operator2")
    claude.play(f"{TRANSCRIPT}{SAY} \"$(cd $HOME; find . -type f | tr -d '\\n')\"\n{RESULT}")
    found = answer_text(talker.chat("two", session=first["session"]))
    assert found.count(".jsonl") == 1
    assert found.startswith("./projects/")
    assert found.endswith(f"/{first['id']}.jsonl")


@pytest.mark.all
@pytest.mark.real("bwrap")
@pytest.mark.parametrize("who", ["uids", "shared_uid"])
def test_a_sessions_dir_behind_a_link(claude: ScriptedClaude, model: Model, directory: Path, who: str) -> None:
    """And with `..` in its name: claude files its transcript under the name that its directory really has."""
    aside = directory / f"aside{len(who)}"
    (aside / "real").mkdir(parents=True)
    (directory / f"link{len(who)}").symlink_to(aside / "real")
    sessions = aside / f"../link{len(who)}"
    uids = f'uids = "{UID_RANGE}"\n' if who == "uids" else ""  # without them, the handler of a test has shared_uid
    with started(Talker(directory, model, sessions=sessions, chat=f"{uids}{claude.chat}")) as talker:
        claude.play(remember("one"))
        events = talker.chat("one")
        assert events[-1]["ok"] is True, events
        claude.play(remember("two"))
        assert answer_text(talker.chat("two", session=events[0]["session"])) == "one"
