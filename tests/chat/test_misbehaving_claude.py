"""What a claude that misbehaves can do to a turn. A shell script is in its place, because the real one behaves."""

import http.client
import json
import subprocess
import time
from pathlib import Path

import pytest

from breakglass.base.framer import LINE_BYTES
from breakglass.chat.launch import launch
from breakglass.chat.store import Store
from breakglass.chat.turn_requests import TurnRequest
from breakglass.claude import start
from breakglass.claude.runner import LOG_BYTES, Runner
from breakglass.claude.runner_job import RunnerJob
from breakglass.config.model import Address, ChatSettings, Host, Vm

from ..support.model import Model
from ..support.naps import nap, wait_for_process, wait_until_gone
from ..support.scripted_claude import RESULT, TEXT, TOOL, ScriptedClaude, line
from ..support.stages import until
from ..support.talk import Event, Talker, answer_text, kinds, last_error, started, unread_turn

pytestmark = pytest.mark.slow
PLACES = 3


@pytest.fixture(autouse=True)
def _places_are_free(talker: Talker) -> None:
    talker.wait_for_places()


def test_a_stream_goes_silent(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent model API ends the turn after the limit."""
    monkeypatch.setattr(start, "SILENCE_SECONDS", 0.5)
    quiet = run_alone(directory / "quiet", f"{TEXT}exec sleep 600\n")
    assert (last_error(quiet)["code"], "0.5 s" in last_error(quiet)["message"]) == ("claude-unreachable", True)


def test_a_tool_may_be_silent_for_longer() -> None:
    """From claude's call of it to its result."""
    result = {"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]}}
    runner = Runner(RunnerJob((), {}, "/", "hello", "devvm", silence_seconds=60), lambda: True)
    for message, reason in ((TEXT, "silent"), (TOOL, ""), (line(**result), "silent")):
        printed = subprocess.run(["/bin/sh", "-c", message], capture_output=True, check=True).stdout
        runner._write_events(printed)
        assert runner._find_reason_to_stop(runner.last_output_at + 59) == ""
        assert runner._find_reason_to_stop(runner.last_output_at + 61) == reason


def run_alone(directory: Path, script: str) -> list[Event]:
    """Run a turn without a handler, with a script in place of claude; return its log."""
    directory.mkdir()
    program = directory / "claude"
    program.write_text(f"#!/bin/bash\n{script}")
    program.chmod(0o755)
    settings = ChatSettings(str(directory / "sessions"), str(program), shared_uid=True)
    vm = Vm("devvm", 102, (Host("pve1", Address("breakglass", "127.0.0.1"), ""),))
    sid = Path("/proc/sys/kernel/random/uuid").read_text().strip()
    store = Store(settings.sessions_dir)
    turn_dir = store.turn_dir("operator", sid)
    request = TurnRequest(vm, "hello", sid, turn=sid, caller="operator")
    started = launch(settings, store, request, turn_dir, None, None)
    assert isinstance(started, tuple)
    process, control = started
    with control:
        process.wait()
    return [json.loads(each) for each in (turn_dir / "log").read_bytes().splitlines()]


def test_claude_is_missing(talker: Talker, claude: ScriptedClaude) -> None:
    """The error names the program that could not be started; the verbs work."""
    with talker.changed(claude.command, "no-such-claude"):
        events = talker.chat("hello")
        assert kinds(events) == ["session", "error", "done"]
        assert last_error(events)["code"] == "claude-missing"
        assert "no-such-claude" in last_error(events)["message"]
        assert talker.pve("status").json["outcome"] == "unreached"


def test_claude_crashes(talker: Talker, claude: ScriptedClaude) -> None:
    """The error has its exit and the end of its stderr; the text before that stays."""
    claude.play(TEXT + "echo it broke >&2; exit 7")
    events = talker.chat("hello")
    assert answer_text(events) == "hello"
    assert last_error(events)["code"] == "claude-crashed"
    assert "exit 7; stderr ends with: it broke" in last_error(events)["message"]


def test_claude_dies_of_a_signal_or_stops_short(talker: Talker, claude: ScriptedClaude) -> None:
    """Exit 0 without a result is a failure too."""
    claude.play(TEXT + 'grep -q die && kill -SEGV $$; printf "{\\"type\\":\\"resu"')
    assert "signal 11" in last_error(talker.chat("die"))["message"]
    assert "in the middle of its output" in last_error(talker.chat("short"))["message"]


def test_a_line_of_more_than_16_mib(talker: Talker, claude: ScriptedClaude) -> None:
    """Such a line is left out with a note; a slightly shorter one comes through; the turn goes on after both."""
    zeros = "head -c {} /dev/zero | tr '\\0' x"
    fits = f"""printf '{{"type":"x","y":"'; {zeros.format(LINE_BYTES - 100)}; echo '"}}'\n"""
    claude.play(TOOL + fits + f"{zeros.format(LINE_BYTES + 1)}; echo\n" + TEXT + RESULT)
    events = talker.chat("hello")
    assert kinds(events) == ["session", "tool", "tool_result", "text", "result", "done"]
    [result] = [event for event in events if event["type"] == "tool_result"]
    assert (result["ok"], result["cut"]) == (False, True)
    assert events[-1]["ok"] is True


def test_what_a_turn_leaves_behind_ends_with_it(talker: Talker, claude: ScriptedClaude) -> None:
    """A process in the background, in a session of its own, does not outlive the turn."""
    background = f"setsid {nap(27)} </dev/null >/dev/null 2>&1 &\n"
    wait = f"until [ -e {talker.directory}/seen ]; do sleep 0.05; done\n"
    claude.play(background + TEXT + wait + RESULT)
    with talker.open(prompt="hello") as stream:
        stream.until("text")
        wait_for_process(nap(27))
        (talker.directory / "seen").touch()
        assert stream.rest()[-1]["ok"] is True
    wait_until_gone(nap(27), 0)
    until(lambda: not list((talker.sessions / "work").iterdir()), "the turn's directory is removed")


def test_claude_ignores_signals(directory: Path, model: Model, claude: ScriptedClaude) -> None:
    """A claude that ignores SIGINT and SIGTERM is killed with its children, and the stream has its end."""
    claude.play("trap '' INT TERM; " + TEXT + f"while true; do {nap(28)}; done")
    talker = Talker(directory, model, chat=claude.chat)
    with started(talker), talker.open(prompt="hello") as stream:
        stream.until("text")
        wait_for_process(nap(28))
        talker.process.terminate()
        assert last_error(stream.rest())["code"] == "shutting-down"
        wait_until_gone(nap(28))  # the handler waits 4 s for its turns, and on a busy machine they need longer


@pytest.mark.all
def test_claude_writes_without_an_end(talker: Talker, claude: ScriptedClaude) -> None:
    """Neither verbs nor health wait for a claude that floods; a turn that finds no room gets `busy`."""
    claude.play(TEXT + """exec yes '{"type":"x"}'""")
    with talker.open(prompt="1") as one, talker.open(prompt="2") as two:
        one.until("text")
        two.until("text")
        assert last_error(talker.chat("three"))["code"] == "busy"  # the last place is for another caller
        assert talker.pve("status").json["outcome"] == "unreached"
        assert talker.health()["ok"] is True
        for stream in (one, two):
            assert talker.ask(cancel=stream.turn).status == 202
            assert last_error(stream.rest())["code"] == "cancelled"


@pytest.mark.all  # 64 MiB take seconds of processor
def test_a_log_has_an_end(talker: Talker, claude: ScriptedClaude) -> None:
    """A claude whose events never end is stopped before they fill the disk; the events so far can be read."""
    block = write_block(talker.directory, 200_000)
    claude.play(f"while true; do cat {block} {block} {block} {block} {block}; done")
    with talker.open(prompt="hello") as stream:
        error = last_error(stream.rest())
    assert (error["code"], "size limit" in error["message"]) == ("claude-crashed", True)
    log = Store(str(talker.sessions)).turn_dir("operator", stream.turn) / "log"
    assert log.stat().st_size < 1.2 * LOG_BYTES


def write_block(directory: Path, size: int) -> Path:
    """Write a line of claude's with a long text into a file."""
    path = directory / f"block-{size}.json"
    content = [{"type": "text", "text": "z" * size}]
    path.write_text(json.dumps({"type": "assistant", "message": {"id": "m", "content": content}}) + "\n")
    return path


@pytest.mark.all  # it reads slowly, for longer than the limit
def test_a_slow_client_is_not_cut_off(directory: Path, model: Model, claude: ScriptedClaude) -> None:
    """A client that reads a little, for longer than one may stay that reads nothing, gets every byte in the end."""
    claude.play(f"for i in $(seq 200); do cat {write_block(directory, 60_000)}; done\n{RESULT}")
    patience = 3.0  # instead of 30 s, and read as much faster
    patched = f"import breakglass.web.connection; breakglass.web.connection.UNREAD_SECONDS = {patience}"
    slow = Talker(directory, model, chat=claude.chat, patched=patched)
    with started(slow), unread_turn(slow, "hello") as (turn, connection):
        response = http.client.HTTPResponse(connection)
        response.begin()
        raw, end = b"", time.monotonic() + 1.2 * patience
        while time.monotonic() < end:
            raw += response.read(8192)  # loopback's segments are 64 KiB, and the window opens by one at a time
            time.sleep(0.06)
        raw += response.read()
        with slow.open(attach=turn) as other:
            assert [json.loads(line) for line in raw.splitlines()] == other.rest()
