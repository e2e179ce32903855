"""`breakglass chat`, as its own process: what it shows, what it asks, and what Ctrl-C does."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.model import Model
from ..support.ports import reserve_port
from ..support.talk import Talker, bash, fake, nap, running, started

README = Path(__file__).parent.parent.parent / "README.md"

pytestmark = [pytest.mark.real("claude"), pytest.mark.slow]


@pytest.fixture(scope="module")
def talker(model: Model, directory: Path) -> Iterator[Talker]:
    with started(Talker(directory, model)) as talker:
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


def test_a_conversation(talker: Talker, model: Model) -> None:
    """Text, the commands with their results, what it took; --resume goes on with the same conversation another time."""
    first = fake({"text": "I look at it. ", **bash("echo $((40+2))")}, {"text": "It \u202eis idle."})
    code, seen = typed(talker, first, fake({"text": "And now?"}))
    assert code == 0
    assert "I look at it. \n$ echo $((40+2))\n  42\nIt \\u202eis idle.\n(" in seen
    assert "And now?" in seen
    code, seen = typed(talker, fake({"text": "Still here."}), options=("--resume",))
    assert (code, "Still here." in seen) == (0, True)
    assert "I look at it." in json.dumps(model.asked[-1].body)


def test_a_failure_is_shown(talker: Talker) -> None:
    """With its sentence and its hint, and as the exit code; a handler that is not there is another."""
    code, seen = typed(talker, fake({"text": "x", "fail": 403}))
    assert code == 1
    assert "not signed in" in seen
    code, seen = typed(talker, "hello", url=f"http://127.0.0.1:{reserve_port()}")
    assert (code, "refused" in seen) == (3, True)


def test_a_proposal_needs_a_y(directory: Path, model: Model) -> None:
    """Anything else runs nothing. The y sends the verb under the proposal's own id; claude is told what came of it."""
    ask = {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "pve reset"}}
    denied = {"type": "tool_result", "tool_use_id": "t", "is_error": True}
    denied["content"] = "Exit code 16\napproval-required: reset"
    result = {"type": "result", "subtype": "success", "is_error": False, "result": "", "num_turns": 1, "duration_ms": 5}
    lines = [
        {"type": "assistant", "message": {"id": "m", "content": [ask]}},
        {"type": "user", "message": {"content": [denied]}},
    ]
    program = directory / "claude-that-asks"
    script = "".join(f"echo '{json.dumps(line)}'\n" for line in lines)
    told = directory / "told"
    program.write_text(f"#!/bin/bash\ntee -a {told} | grep -q approve || {{\n{script}}}\necho '{json.dumps(result)}'\n")
    program.chmod(0o755)
    with started(Talker(directory, model, chat=f'command = "{program}"')) as talker:
        _, seen = typed(talker, "help", "Y es")
        assert "run reset on devvm? y/N" in seen
        assert "I did not approve reset" in told.read_text()
        _, seen = typed(talker, "help", "y")
        assert "(id job_" in seen
        assert "I approved reset on devvm. " in told.read_text()
        verbs = [line for line in talker.audit() if line["verb"] == "reset"]
    assert [verb["id"].startswith("job_") for verb in verbs] == [True]


def test_ctrl_c_stops_the_turn_and_then_leaves(talker: Talker) -> None:
    """The turn's command ends with it; what was said stays, and the conversation can go on."""
    with terminal(talker) as process:
        assert process.stdin is not None
        process.stdin.write(f"{fake(bash(f'{nap(12)} | {nap(12)}'))}\n".encode())
        process.stdin.flush()
        seen_until(process, f"$ {nap(12)}")
        process.send_signal(signal.SIGINT)
        seen_until(process, "stopped on request")
        assert running(nap(12)) == []
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 1


def test_ctrl_c_without_a_handler(directory: Path, model: Model) -> None:
    """It says that the turn could not be stopped; again leaves, as ever."""
    with started(Talker(directory, model)) as talker, terminal(talker) as process:
        assert process.stdin is not None
        process.stdin.write(f"{fake({'text': 'one two three four five six seven', 'wait': 'never'})}\n".encode())
        process.stdin.flush()
        seen_until(process, "one")
        talker.kill()
        process.send_signal(signal.SIGINT)
        seen_until(process, "could not be stopped: ")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


@pytest.mark.real("curl")
def test_the_readmes_curl_does_a_turn(talker: Talker, tmp_path: Path) -> None:
    """The two lines as they are printed there: a stream that ends with done."""
    [block] = re.findall(r"```console\n(\$ printf '\{\"prompt\".*?)```", README.read_text(), re.DOTALL)
    script = "".join(f"{line.removeprefix('$ ')}\n" for line in block.splitlines())
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
