"""`breakglass chat` as its own process: its output, its questions, and the effect of Ctrl-C.

A script stands in for claude.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..support.chat_terminal import seen_until, terminal, typed
from ..support.documents import commands
from ..support.naps import nap, wait_for_process, wait_until_gone
from ..support.ports import reserve_port
from ..support.scripted_claude import RESULT, ScriptedClaude, line
from ..support.talk import Talker, bash, fake

pytestmark = pytest.mark.slow
WHY = "Its disk hangs."


@pytest.fixture(autouse=True)
def _plays_prompts(claude: ScriptedClaude) -> None:
    claude.play_prompts()


@pytest.mark.all
def test_a_conversation(talker: Talker) -> None:
    """The answer, the commands with their results, and the cost; --resume shows its end and continues it."""
    first = fake({"text": "Look: ", **bash("echo $((40+2))")}, {"text": "\u202eIdle."})
    code, seen = typed(talker, first, fake({"text": "And now?"}))
    assert code == 0
    assert "Look: \n$ echo $((40+2))\n  42\n\\u202eIdle.\n(" in seen
    assert re.search(r"And now\?\n\(0.0 s, \$0.0100; .*: \$0.02 of \$1.00\)\n", seen)
    code, seen = typed(talker, fake({"text": "Still here."}), options=("--resume",))
    assert re.search(r"\(2 turns .*: \$0.02 of \$1.00\)\n", seen)
    assert (seen.count("\\u202eIdle."), seen.count("\nAnd now?\n")) == (0, 1)
    assert code == 0
    assert re.search(r"Still here.\n\(0.0 s, .*: \$0.03 of \$1.00\)\n", seen)


def test_a_failure_is_shown(talker: Talker, claude: ScriptedClaude) -> None:
    """The failure has its sentence, its hint and its exit code. If the handler is down, the exit code differs."""
    claude.play(line(type="result", is_error=True, api_error_status=403, result="no permission"))
    code, seen = typed(talker, "hello")
    assert code == 1
    assert (": no permission" in seen, "chat.credential_file" in seen) == (True, True)
    code, seen = typed(talker, "hello", url=f"http://127.0.0.1:{reserve_port()}")
    assert (code, "refused" in seen) == (3, True)


def test_a_proposal_needs_a_y(talker: Talker, claude: ScriptedClaude) -> None:
    """Only y sends the verb, under the proposal's id. If nothing was sent, no turn follows.

    This claude has never asked for a verb, so its proposal is for no known state.
    """
    call = {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "pve reset"}}
    refusal = {"type": "tool_result", "tool_use_id": "t", "is_error": True}
    refusal["content"] = "Exit code 16\napproval-required: reset"
    why = {"type": "text", "text": WHY}
    proposal = line(type="assistant", message={"id": "m", "content": [why, call]})
    proposal += line(type="user", message={"content": [refusal]})
    turns = talker.log().count('"outcome": "turn"')
    claude.play(f"{proposal}\n{RESULT}")
    _, seen = typed(talker, "help", "Y es")
    assert ("$ pve reset\n\n(" in seen, f": {WHY})\n" in seen) == (True, True)
    assert "run reset on devvm? y/N" in seen
    assert reset_ids(talker) == []
    _, seen = typed(talker, "help", "y")
    assert 'needs "if_last"' in seen
    assert talker.log().count('"outcome": "turn"') == turns + 2


def reset_ids(talker: Talker) -> list[str]:
    lines = map(json.loads, talker.log().splitlines())
    return [each["id"] for each in lines if each.get("verb") == "reset"]


def test_ctrl_c_stops_the_turn_and_then_leaves(talker: Talker) -> None:
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


@pytest.mark.all
@pytest.mark.real("curl")
def test_the_documents_curl_does_a_turn(talker: Talker, tmp_path: Path) -> None:
    """The two lines of docs/requests.md get a stream that ends with `done`."""
    [script] = commands("docs/requests.md", "A turn of chat")
    own = {"URL": f"http://127.0.0.1:{talker.port}", "BREAKGLASS_SECRET": talker.secrets["operator"]}
    own["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = subprocess.run(["bash", "-ec", script], env=os.environ | own, cwd=tmp_path, stdout=subprocess.PIPE)
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [line["type"] for line in lines][:1] + [line["type"] for line in lines][-2:] == ["session", "result", "done"]
    assert lines[-1]["ok"] is True
