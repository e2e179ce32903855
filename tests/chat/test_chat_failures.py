"""What can go wrong with a turn: each has its code and its sentence, `done` comes last, and the verbs don't notice."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from breakglass.chat import launch, sessions_disk
from breakglass.chat.sessions import LIFETIME
from breakglass.chat.store import Store
from breakglass.claude.command import TurnRequest
from breakglass.claude.framer import LINE_BYTES
from breakglass.claude.runner import LOG_BYTES
from breakglass.config.model import Address, ChatSettings, Vm
from breakglass.errors import SessionsUnwritable

from ..support.hung import unserved_fuse
from ..support.model import Model
from ..support.ports import reserve_port
from ..support.talk import Event, Talker, bash, deaf, fake, gone, kinds, last_error, nap, said, started, there

pytestmark = [pytest.mark.real("claude"), pytest.mark.slow]


@pytest.fixture(scope="module")
def talker(model: Model, directory: Path) -> Iterator[Talker]:
    with started(Talker(directory, model, CLAUDE_CODE_MAX_RETRIES="0")) as talker:
        yield talker


@contextlib.contextmanager
def instead(directory: Path, model: Model, script: str, **more: object) -> Iterator[Talker]:
    """A handler whose `claude` is a script."""
    program = directory / f"claude-{reserve_port()}"
    program.write_text(f"#!/bin/bash\n{script}\n")
    program.chmod(0o755)
    chat = f"command = {json.dumps(str(program))}\n"
    with started(Talker(directory, model, chat=chat, **more)) as talker:  # type: ignore[arg-type]
        yield talker


def line(**message: object) -> str:
    return f"echo '{json.dumps(message)}'\n"


TEXT = line(type="assistant", message={"id": "m", "content": [{"type": "text", "text": "hello"}]})
TOOL = line(
    type="assistant", message={"id": "n", "content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]}
)
RESULT = line(type="result", subtype="success", is_error=False, result="hello", num_turns=1, duration_ms=5)

# --- what the model's service does ---


@pytest.mark.parametrize(
    ("step", "code", "words"),
    [
        ({"fail": 401}, "claude-auth", "Invalid API key"),
        ({"fail": 403}, "claude-auth", "permission"),
        ({"fail": 529}, "claude-overloaded", "HTTP 529"),
        ({"fail": 500}, "claude-overloaded", "HTTP 500"),
        ({"fail": 429, "retry_after": 3600}, "claude-rate-limited", "rate limit"),
        ({"fail": 404}, "claude-crashed", "model"),
        ({"fail": "html"}, "claude-unreachable", "HTTP 200"),
    ],
)
def test_the_services_failures(talker: Talker, model: Model, step: dict[str, object], code: str, words: str) -> None:
    """Each is told in its own words, once, and after two more tries at most: claude's own ten take three minutes."""
    before = len(model.asked)
    events = talker.chat(fake({"text": "never said", **step}))
    error = last_error(events)
    assert (error["code"], said(events)) == (code, "")
    assert words in error["message"]
    assert error["hint"]
    assert len(model.asked) - before <= 3


def test_a_session_survives_a_failure(talker: Talker) -> None:
    """When the service is back, the same session goes on."""
    first = talker.chat(fake({"text": "never said", "fail": 403}))
    assert last_error(first)["code"] == "claude-auth"
    assert said(talker.chat(fake({"text": "here"}), session=first[0]["session"])) == "here"


def test_nobody_listens(directory: Path, model: Model) -> None:
    """A service that is down is reported in under 5 s, not after three minutes."""
    with started(Talker(directory, model, ANTHROPIC_BASE_URL=f"http://127.0.0.1:{reserve_port()}")) as talker:
        began = time.monotonic()
        error = last_error(talker.chat("hello"))
        assert time.monotonic() - began < 50  # ten times the bound; claude's own ten tries take 180 s
    assert error["code"] == "claude-unreachable"


def test_not_signed_in(directory: Path, model: Model) -> None:
    """Without any credential it says so, and where one goes."""
    with started(Talker(directory, model, ANTHROPIC_API_KEY="")) as talker:
        error = last_error(talker.chat("hello"))
    assert (error["code"], "chat" in error["hint"]) == ("claude-auth", True)


@pytest.mark.parametrize("kind", ["text", "tool"])
def test_a_turn_has_its_time(directory: Path, model: Model, kind: str) -> None:
    """At its end the turn is stopped, whatever it is doing, and the session goes on."""
    step = (
        {"text": "one two three four five six seven", "wait": "never"}
        if kind == "text"
        else bash("sleep 60 | sleep 60")
    )
    with started(Talker(directory, model, chat="turn_seconds = 1800")) as talker:
        session = talker.chat("hello")[0]["session"]
        reload(
            talker, "turn_seconds = 1800", "turn_seconds = 3"
        )  # for this turn alone: claude may need as long to start
        events = talker.chat(fake(step), session=session)
        assert (last_error(events)["code"], "3 s" in last_error(events)["message"]) == ("turn-timeout", True)
        reload(talker, "turn_seconds = 3", "turn_seconds = 1800")
        assert said(talker.chat(fake({"text": "here"}), session=events[0]["session"])) == "here"


def reload(talker: Talker, old: str, new: str) -> None:
    """Change the configuration, and return once chat follows it."""
    audit = talker.directory / f"audit-{talker.port}.jsonl"
    before = audit.read_text().count('"isolated"')
    talker.config.write_text(talker.config.read_text().replace(old, new))
    talker.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + 60
    while audit.read_text().count('"isolated"') == before:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_stream_goes_silent(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """claude itself would wait for 300 s; a tool may be silent for longer than that. A script stands in for claude:
    the real one can be silent for as long while it starts on a busy machine."""
    monkeypatch.setattr(launch, "SILENCE_SECONDS", 2.5)
    quiet = run_alone(directory / "quiet", f"{TEXT}exec sleep 600\n")
    assert (last_error(quiet)["code"], "2.5 s" in last_error(quiet)["message"]) == ("claude-unreachable", True)
    busy = run_alone(directory / "busy", f"{TOOL}sleep 3\n{TEXT}{RESULT}")
    assert busy[-1] == {"type": "done", "n": busy[-1]["n"], "ok": True}


def run_alone(directory: Path, script: str) -> list[Event]:
    """Run a turn without a handler, with a script in place of claude; return its log."""
    directory.mkdir()
    program = directory / "claude"
    program.write_text(f"#!/bin/bash\n{script}")
    program.chmod(0o755)
    settings = ChatSettings(str(directory / "sessions"), str(program), shared_uid=True)
    vm = Vm("devvm", 102, Address("breakglass", "127.0.0.1"), "")
    sid = Path("/proc/sys/kernel/random/uuid").read_text().strip()
    store = Store(settings.sessions_dir)
    turn_dir = store.turn_dir("operator", sid)
    request = TurnRequest(sid, "operator", vm, "hello", sid)
    started = launch.launch(settings, store, request, turn_dir, None)
    assert started is not None
    process, control = started
    with control:
        process.wait(60)
    return [json.loads(each) for each in (turn_dir / "log").read_bytes().splitlines()]


# --- what claude does ---


def test_claude_is_not_there(directory: Path, model: Model) -> None:
    """It says what could not be started; the verbs go their way."""
    with started(Talker(directory, model, chat='command = "no-such-claude"')) as talker:
        events = talker.chat("hello")
        assert kinds(events) == ["session", "error", "done"]
        assert last_error(events)["code"] == "claude-missing"
        assert "no-such-claude" in last_error(events)["message"]
        assert talker.pve("status").json["outcome"] == "unreached"


def test_claude_crashes(directory: Path, model: Model) -> None:
    """With its exit and its last words; what it had said stays."""
    with instead(directory, model, TEXT + "echo it broke >&2; exit 7") as talker:
        events = talker.chat("hello")
    assert said(events) == "hello"
    assert last_error(events)["code"] == "claude-crashed"
    assert "exit 7; stderr ends with: it broke" in last_error(events)["message"]


def test_claude_dies_of_a_signal_or_stops_short(directory: Path, model: Model) -> None:
    """Exit 0 without a result is no success either."""
    with instead(directory, model, TEXT + 'grep -q die && kill -SEGV $$; printf "{\\"type\\":\\"resu"') as talker:
        assert "signal 11" in last_error(talker.chat("die"))["message"]
        assert "in the middle of its output" in last_error(talker.chat("short"))["message"]


def test_a_line_of_more_than_16_mib(directory: Path, model: Model) -> None:
    """It is left out with a note; one that is a little shorter comes through; the turn goes on after both."""
    huge = "head -c {} /dev/zero | tr '\\0' x; echo\n"
    fits = (
        f'printf \'{{"type":"x","y":"\'; {huge.format(LINE_BYTES - 100).strip().removesuffix("; echo")}; echo \'"}}\'\n'
    )
    with instead(directory, model, TOOL + fits + huge.format(LINE_BYTES + 1) + TEXT + RESULT) as talker:
        events = talker.chat("hello")
    assert kinds(events) == ["session", "tool", "tool_result", "text", "result", "done"]
    [result] = [event for event in events if event["type"] == "tool_result"]
    assert (result["ok"], result["cut"]) == (False, True)
    assert events[-1]["ok"] is True


def test_what_a_turn_leaves_behind_ends_with_it(directory: Path, model: Model) -> None:
    """A process that went into the background, into a session of its own, does not outlive the turn."""
    leaves = f"setsid {nap(27)} </dev/null >/dev/null 2>&1 &\n"
    waits = f"until [ -e {directory}/seen ]; do sleep 0.05; done\n"
    with instead(directory, model, leaves + TEXT + waits + RESULT) as talker:
        with talker.open(prompt="hello") as stream:
            stream.until("text")
            there(nap(27))
            (directory / "seen").touch()
            assert stream.rest()[-1]["ok"] is True
        gone(nap(27), 0)
        until = time.monotonic() + 10
        while list((talker.sessions / "work").iterdir()):
            assert time.monotonic() < until
            time.sleep(0.01)


def test_claude_hears_no_signal(directory: Path, model: Model) -> None:
    """A claude that ignores the polite ones is killed, with what it started; the stream has its end in 5 s."""
    deaf = "trap '' INT TERM; " + TEXT + f"while true; do {nap(28)}; done"
    with instead(directory, model, deaf) as talker, talker.open(prompt="hello") as stream:
        stream.until("text")
        there(nap(28))
        talker.process.terminate()
        began = time.monotonic()
        assert last_error(stream.rest())["code"] == "shutting-down"
        assert time.monotonic() - began < 50  # ten times the bound
        gone(nap(28), 0)


def test_claude_writes_without_an_end(directory: Path, model: Model) -> None:
    """Neither verbs nor health wait for a claude that hangs or floods; `busy` is said to the turn that has no room."""
    flood = TEXT + 'exec yes \'{"type":"x"}\''
    with instead(directory, model, flood) as talker, talker.open(prompt="1") as one, talker.open(prompt="2") as two:
        one.until("text")
        two.until("text")
        assert last_error(talker.chat("three"))["code"] == "busy"
        assert talker.pve("status").json["outcome"] == "unreached"
        assert talker.health()["ok"] is True
        for stream in (one, two):
            assert talker.ask(cancel=stream.turn).status == 202
            assert last_error(stream.rest())["code"] == "cancelled"


def test_a_log_has_an_end(directory: Path, model: Model) -> None:
    """A claude whose events go on for ever is stopped before they fill the disk; what was said can be read."""
    block = directory / "flood.json"
    block.write_text(TEXT.removeprefix("echo '").removesuffix("'\n").replace("hello", "z" * 200_000) + "\n")
    with instead(directory, model, f"while true; do cat {block} {block} {block} {block} {block}; done") as talker:
        with talker.open(prompt="hello") as stream:
            error = last_error(stream.rest())
        assert (error["code"], "size limit" in error["message"]) == ("claude-crashed", True)
        log = Store(str(talker.sessions)).turn_dir("operator", stream.turn) / "log"
        assert log.stat().st_size < 1.2 * LOG_BYTES


def test_a_conversation_that_is_gone(talker: Talker) -> None:
    """A session whose transcript was removed says so, and what to do."""
    first = talker.chat("hello")[0]
    for transcript in talker.sessions.rglob(f"{first['id']}.jsonl"):
        transcript.unlink()
    error = last_error(talker.chat("go on", session=first["session"]))
    assert error["code"] == "session-lost"
    assert "without a session" in error["hint"]


def test_a_slow_client_is_not_cut_off(directory: Path, model: Model) -> None:
    """One that reads a little, for longer than one that reads nothing may stay, gets every byte in the end."""
    block = directory / "block.json"
    block.write_text(TEXT.removeprefix("echo '").removesuffix("'\n").replace("hello", "z" * 60_000) + "\n")
    script = f"for i in $(seq 200); do cat {block}; done\n{RESULT}"
    patience = 3.0  # instead of 30 s, and read as much faster
    patched = f"import breakglass.web.server; breakglass.web.server.UNREAD_SECONDS = {patience}"
    with instead(directory, model, script, patched=patched) as talker, deaf(talker, "hello") as (turn, connection):
        response = http.client.HTTPResponse(connection)
        response.begin()
        raw, until = b"", time.monotonic() + 1.2 * patience
        while time.monotonic() < until:
            raw += response.read(8192)  # loopback's segments are 64 KiB, and the window opens by one at a time
            time.sleep(0.06)
        raw += response.read()
        with talker.open(attach=turn) as other:
            assert [json.loads(line) for line in raw.splitlines()] == other.rest()


# --- the disk ---


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


@pytest.mark.real("mounts")
def test_a_full_or_read_only_disk(directory: Path, model: Model) -> None:
    """It is an answer before the turn begins, not a conversation that is silently lost."""
    asked = len(model.asked)
    with mounted(directory, "20m") as path, started(Talker(directory, model, sessions=path / "sessions")) as talker:
        session = talker.chat("hello")[0]["session"]
        (path / "ballast").write_bytes(bytes(8 << 20))
        reply = talker.ask(prompt="hello", session=session)
        assert (reply.status, reply.json["error"]["code"]) == (503, "sessions-unwritable")
        assert "16 MiB" in reply.json["error"]["message"]
        (path / "ballast").unlink()
        until = time.monotonic() + 10
        while subprocess.run(["mount", "-o", "remount,ro", str(path)], stderr=subprocess.DEVNULL).returncode:
            assert time.monotonic() < until  # the last turn's runner is about to let go of its files
            time.sleep(0.02)
        reply = talker.ask(prompt="hello", session=session)
        assert (reply.status, reply.json["error"]["code"]) == (503, "sessions-unwritable")
        assert "read-only" in reply.json["error"]["message"].lower()
        assert talker.pve("status").json["outcome"] == "unreached"
        assert len(model.asked) == asked + 1
        subprocess.run(["mount", "-o", "remount,rw", str(path)], check=True)
        assert talker.chat("hello", session=session)[-1]["ok"] is True


@pytest.mark.real("mounts")
def test_a_disk_that_fills_up_in_a_turn(directory: Path, model: Model) -> None:
    """The turn is stopped and has an end, and the log is read as far as it goes."""
    fill = "head -c 60M /dev/zero > mounted/ballast 2>/dev/null\n"
    script = TEXT + f"cd {directory}\n{fill}" + "while true; do " + TEXT.strip() + "; done"
    with mounted(directory, "20m") as path, instead(directory, model, script, sessions=path / "sessions") as talker:
        error = last_error(talker.chat("hello"))
        assert error["code"] == "claude-crashed"


@pytest.mark.real("fuse")
def test_a_disk_that_hangs(directory: Path, model: Model) -> None:
    """A turn waits for it, and is given up; neither the verbs nor the handler's end wait for anything."""
    with started(Talker(directory, model, sessions=directory / "hangs")) as talker:
        assert talker.chat("hello")[-1]["ok"] is True
        with unserved_fuse(directory / "hangs"), ThreadPoolExecutor() as pool:
            turn = pool.submit(talker.ask, prompt="hello")
            for _ in range(20):
                assert talker.pve("status").json["outcome"] == "unreached"
                assert talker.health()["ok"] is True
            assert not turn.done()
            talker.stop()
            turn.exception(10)


async def test_a_call_that_does_not_return(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up after its time, and the next one is served by another thread."""
    monkeypatch.setattr(sessions_disk, "SECONDS", 0.2)
    released = threading.Event()
    threads = sessions_disk.SessionsDisk()
    with pytest.raises(SessionsUnwritable, match="did not answer"):
        await threads.run(released.wait)
    assert await threads.run(lambda: 7) == 7
    released.set()


# --- the logs ---


def test_logs_are_the_handlers_alone(talker: Talker) -> None:
    """Nobody else can read the events or the locks."""
    talker.chat("hello")
    for name in ("turns", "locks"):
        assert (talker.sessions / name).stat().st_mode & 0o777 == 0o700


def test_a_transcript_is_kept_as_long_as_its_token(tmp_path: Path) -> None:
    """What was written to in the last 30 days stays; the time of the newest file counts."""
    store = Store(str(tmp_path))
    store.ready()
    for name, age in (("old", LIFETIME + 60), ("new", LIFETIME - 60)):
        transcript = tmp_path / f"claude/{name}-a-b-c-d/projects/x.jsonl"
        transcript.parent.mkdir(parents=True)
        transcript.touch()
        for path in (transcript, transcript.parent, transcript.parent.parent):
            os.utime(path, (1, time.time() - age))
    os.utime(tmp_path / "claude/new-a-b-c-d", (1, 1))
    store.prune()
    assert [path.name for path in (tmp_path / "claude").iterdir()] == ["new-a-b-c-d"]


def test_turns_are_kept_for_a_day(tmp_path: Path) -> None:
    """Then they go, unless somebody holds them."""
    store = Store(str(tmp_path))
    held, old, new = (store.turn_dir("operator", name) for name in ("held", "old", "new"))
    fds = [store.claim(turn_dir, {"vm": "devvm"}, {"type": "session", "n": 1}) for turn_dir in (held, old, new)]
    for turn_dir in (held, old):
        os.utime(turn_dir / "log", (1, 1))
    for fd in fds[1:]:
        assert fd is not None
        os.close(fd)
    lock = store.lock("sid")
    assert lock is not None
    assert store.lock("sid") is None
    os.close(lock)
    os.utime(tmp_path / "locks" / "sid", (1, 1))
    store.prune()
    assert (held.exists(), old.exists(), new.exists()) == (True, False, True)
    assert list((tmp_path / "locks").iterdir()) == []
    shutil.rmtree(tmp_path / "turns")
