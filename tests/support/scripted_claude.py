"""A program in the place of `claude`, for tests of how the handler and a turn process claude's output.

It reads the same prompts as the scripted model (`talk.fake`) and prints the lines that the real CLI prints for them, as
in tests/transcripts. A test may replace it by its own shell script. Other tests run the real CLI. In its sandbox, the
program can read only its own file, so a test adds the lines for which the program waits to that file.
"""

import json
from pathlib import Path

from breakglass.chat.wall import PYTHON

# Where the scripted model waits for `release`, it waits for a line at the end of its file. It writes a transcript
# with its input, but does not use it.
_PLAYER = """
import json, os, re, subprocess, sys, time, uuid
from pathlib import Path

prompt = sys.stdin.read()
[sid] = [word.partition("=")[2] for word in sys.argv if word.startswith(("--session-id=", "--resume="))]
place = Path(os.environ["CLAUDE_CONFIG_DIR"], "projects", re.sub("[^A-Za-z0-9]", "-", os.getcwd()))
place.mkdir(parents=True, exist_ok=True)
with (place / f"{sid}.jsonl").open("a") as file:
    file.write(json.dumps([prompt, *sys.argv[1:]]) + "\\n")

def emit(kind, **fields):
    print(json.dumps({"type": kind, **fields}), flush=True)

def stream(**event):
    emit("stream_event", event=event)

def say(step):
    message = f"msg_{uuid.uuid4().hex}"
    stream(type="message_start", message={"id": message})
    for number, at in enumerate(range(0, len(step["text"]), 24)):
        if number == 1 and "wait" in step:
            while f"# released {step['wait']}\\n" not in Path(__file__).read_text():
                time.sleep(0.02)
        delta = {"type": "text_delta", "text": step["text"][at : at + 24]}
        stream(type="content_block_delta", index=0, delta=delta)
    stream(type="message_stop")
    content = [{"type": "text", "text": step["text"]}]
    emit("assistant", message={"id": message, "content": content})

def run(step):
    call = f"toolu_{uuid.uuid4().hex}"
    content = [{"type": "tool_use", "id": call, "name": step["tool"], "input": step["input"]}]
    emit("assistant", message={"id": f"msg_{call}", "content": content})
    shell = [os.environ["CLAUDE_CODE_SHELL_PREFIX"], step["input"]["command"]]
    ran = subprocess.run(shell, capture_output=True, text=True)
    text = (ran.stdout + ran.stderr).rstrip()
    shown = f"Exit code {ran.returncode}\\n{text}" if ran.returncode else text
    content = [{"type": "tool_result", "tool_use_id": call, "content": shown, "is_error": bool(ran.returncode)}]
    emit("user", message={"content": content})

steps = [{"text": "done"}]
if "FAKE=[" in prompt:
    steps = json.JSONDecoder().raw_decode(prompt[prompt.rindex("FAKE=[") + 5 :])[0]
for step in steps:
    if "text" in step:
        say(step)
    if "tool" in step:
        run(step)
usage = {"scripted": {"costUSD": 0.01}}
last = steps[-1].get("text", "")
emit("result", subtype="success", is_error=False, result=last, num_turns=len(steps), duration_ms=5,
     model_usage_since_last_result=usage)
"""


class ScriptedClaude:
    """The program `command`. It plays prompts until `play` replaces its script."""

    def __init__(self, directory: Path) -> None:
        self.command = str(directory / "scripted-claude")
        self.play_prompts()

    @property
    def chat(self) -> str:
        """The line of the table [chat] that names the program."""
        return f"command = {json.dumps(self.command)}\n"

    def play(self, script: str) -> None:
        """Run a shell script from the next turn on. A turn that already runs keeps its script."""
        self._write(f"#!/bin/bash\n{script}\n")

    def play_prompts(self) -> None:
        """From the next turn on, play the prompts, each at 0.01 dollars."""
        self._write(f"#!{PYTHON} -IS\n{_PLAYER}")

    def _write(self, text: str) -> None:
        new = Path(f"{self.command}.new")
        new.write_text(text)
        new.chmod(0o755)
        new.rename(self.command)

    def release(self, name: str) -> None:
        """Let the text that waits for `name`, or will wait for it, continue."""
        with Path(self.command).open("a") as file:
            file.write(f"# released {name}\n")


def line(**message: object) -> str:
    """Return the shell command that prints one line of claude's output."""
    return f"echo '{json.dumps(message)}'\n"


TEXT = line(type="assistant", message={"id": "m", "content": [{"type": "text", "text": "hello"}]})
TOOL = line(
    type="assistant", message={"id": "n", "content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {}}]}
)
RESULT = line(type="result", subtype="success", is_error=False, result="hello", num_turns=1, duration_ms=5)
