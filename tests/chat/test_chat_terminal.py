"""`breakglass chat`, as its own process: what it shows, what it asks, and what Ctrl-C does.

A script stands in for claude.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.documents import commands
from ..support.model import Model
from ..support.naps import nap, wait_for_process, wait_until_gone
from ..support.ports import reserve_port
from ..support.scripted_claude import RESULT, ScriptedClaude, line
from ..support.stages import until
from ..support.talk import Talker, bash, fake, started

README = Path(__file__).parent.parent.parent / "README.md"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def module_claude(directory: Path) -> ScriptedClaude:
    return ScriptedClaude(directory)


@pytest.fixture
def claude(module_claude: ScriptedClaude) -> ScriptedClaude:
    """The program in claude's place, which plays prompts until a test gives it another script."""
    module_claude.play_prompts()
    return module_claude


@pytest.fixture(scope="module")
def talker(module_claude: ScriptedClaude, model: Model, directory: Path) -> Iterator[Talker]:
    with started(Talker(directory, model, chat=module_claude.chat)) as talker:
        yield talker


@contextlib.contextmanager
def terminal(talker: Talker, *options: str, url: str = "") -> Iterator["subprocess.Popen[bytes]"]:
    environment = {**os.environ, "BREAKGLASS_URL": url or f"http://127.0.0.1:{talker.port}"}
    environment |= {"BREAKGLASS_SECRET": talker.secrets["operator"], "XDG_STATE_HOME": str(talker.directory / "state")}
    process = subprocess.Popen(
        [sys.executable, "-m", "breakglass", "chat", *options],
        env=environment,
        cwd=talker.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def typed(talker: Talker, *lines: str, options: tuple[str, ...] = (), url: str = "") -> tuple[int, str]:
    """Type lines and leave; return the exit code and what was to be seen."""
    with terminal(talker, *options, url=url) as process:
        seen, _ = process.communicate("".join(f"{line}\n" for line in lines).encode(), timeout=60)
        return process.returncode, seen.decode()


def seen_until(process: "subprocess.Popen[bytes]", words: str) -> str:
    assert process.stdout is not None
    seen = b""
    while words.encode() not in seen:
        piece = os.read(process.stdout.fileno(), 4096)
        assert piece, seen
        seen += piece
    return seen.decode()


def test_a_conversation(talker: Talker, claude: ScriptedClaude) -> None:
    """The answer, the commands with their results, and the cost; --resume continues the conversation another time."""
    first = fake({"text": "I look at it. ", **bash("echo $((40+2))")}, {"text": "It \u202eis idle."})
    code, seen = typed(talker, first, fake({"text": "And now?"}))
    assert code == 0
    assert "I look at it. \n$ echo $((40+2))\n  42\nIt \\u202eis idle.\n(" in seen
    assert "And now?" in seen
    code, seen = typed(talker, fake({"text": "Still here."}), options=("--resume",))
    assert (code, "Still here." in seen) == (0, True)
    sessions = [next(word for word in call if word.startswith(("--session-id=", "--resume="))) for call in claude.calls]
    [sid] = {session.partition("=")[2] for session in sessions[-3:]}
    assert sessions[-3:] == [f"--session-id={sid}", f"--resume={sid}", f"--resume={sid}"]


def test_a_failure_is_shown(talker: Talker, claude: ScriptedClaude) -> None:
    """With its sentence and its hint, and as the exit code; a handler that is down has another exit code."""
    claude.play(line(type="result", is_error=True, api_error_status=403, result="no permission"))
    code, seen = typed(talker, "hello")
    assert code == 1
    assert "claude is not signed in: no permission" in seen
    assert "chat.credential_file" in seen
    code, seen = typed(talker, "hello", url=f"http://127.0.0.1:{reserve_port()}")
    assert (code, "refused" in seen) == (3, True)


def test_a_proposal_needs_a_y(talker: Talker, claude: ScriptedClaude) -> None:
    """Any other answer runs nothing. A y sends the verb under the proposal's id; claude is told the outcome."""
    call = {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "pve reset"}}
    refusal = {"type": "tool_result", "tool_use_id": "t", "is_error": True}
    refusal["content"] = "Exit code 16\napproval-required: reset"
    proposal = line(type="assistant", message={"id": "m", "content": [call]})
    proposal += line(type="user", message={"content": [refusal]})
    prompts = claude.directory / "prompts"
    claude.play(f"tee -a {prompts} | grep -q approve || {{\n{proposal}}}\n{RESULT}")
    _, seen = typed(talker, "help", "Y es")
    assert "run reset on devvm? y/N" in seen
    until(lambda: "I did not approve reset" in prompts.read_text(), "the refusal to reach claude")
    _, seen = typed(talker, "help", "y")
    assert "(id job_" in seen
    until(lambda: "I approved reset on devvm. " in prompts.read_text(), "the approval to reach claude")
    until(lambda: reset_ids(talker) != [], "the audit line of the reset")
    assert [id.startswith("job_") for id in reset_ids(talker)] == [True]


def reset_ids(talker: Talker) -> list[str]:
    lines = map(json.loads, talker.log().splitlines())
    return [each["id"] for each in lines if each.get("verb") == "reset"]


def test_ctrl_c_stops_the_turn_and_then_leaves(talker: Talker, claude: ScriptedClaude) -> None:
    """The turn's command ends with the turn; a second Ctrl-C ends the terminal."""
    with terminal(talker) as process:
        assert process.stdin is not None
        process.stdin.write(f"{fake(bash(f'{nap(12)} | {nap(12)}'))}\n".encode())
        process.stdin.flush()
        seen_until(process, f"$ {nap(12)}")
        wait_for_process(nap(12))
        process.send_signal(signal.SIGINT)
        seen_until(process, "stopped on request")
        wait_until_gone(nap(12), 0)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1


def test_ctrl_c_without_a_handler(directory: Path, model: Model, claude: ScriptedClaude) -> None:
    """Ctrl-C says that the turn could not be stopped; a second one leaves as usual."""
    with started(Talker(directory, model, chat=claude.chat)) as talker, terminal(talker) as process:
        assert process.stdin is not None
        process.stdin.write(f"{fake({'text': 'one two three four five six seven', 'wait': 'never'})}\n".encode())
        process.stdin.flush()
        seen_until(process, "one")
        talker.kill()
        process.send_signal(signal.SIGINT)
        seen_until(process, "could not be stopped: ")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


@pytest.mark.real("curl")
def test_the_readmes_curl_does_a_turn(talker: Talker, claude: ScriptedClaude, tmp_path: Path) -> None:
    """The two lines as the README has them get a stream that ends with `done`."""
    [script] = commands("README.md", "Chat")
    environment = {
        **os.environ,
        "URL": f"http://127.0.0.1:{talker.port}",
        "BREAKGLASS_SECRET": talker.secrets["operator"],
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    ran = subprocess.run(["bash", "-ec", script], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, timeout=60)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["type"] for line in lines][:1] + [line["type"] for line in lines][-2:] == ["session", "result", "done"]
    assert lines[-1]["ok"] is True
