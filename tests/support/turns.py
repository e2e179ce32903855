"""Turns without a handler. A test starts the turn's program as a handler does, and has the other end of its socket."""

import json
import os
import socket
import subprocess
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import asyncssh

from breakglass.chat import brief
from breakglass.chat.job import (
    Job,
    Opening,
    decode_piece,
    encode_line,
    encode_opening,
)
from breakglass.chat.wall import PYTHON, starter_command
from breakglass.config.model import Address, Host, Vm
from breakglass.config.model_api import ModelApi
from breakglass.demo.proxmox.world import World

from .service import as_handler, let_in
from .sshd import Sshd

Event = dict[str, Any]
GUEST_UID = 65531
GUEST_KEYS = "/etc/ssh/authorized_keys.d/%u"
BRIEF = (files("breakglass.agents") / "breakglass.md").read_text(encoding="utf-8")


def ask_nothing(line: str) -> tuple[int, str]:
    """Answer the requests of claude's `pve` as a handler does whose VM runs."""
    if line.split()[0] in ("status", "forensics", "history"):
        return 0, "devvm: running\n"
    return 16, f"approval-required: {line}\n"


def make_job(
    prompt: str, *, resume: str = "", ssh_files: Mapping[str, str] | None = None, tools: str = "", **more: Any
) -> Job:
    """Return a job about a VM, as a handler makes it."""
    address = Address("guest", "127.0.0.1", 22)
    vm = Vm("devvm", 102, (Host("pve1", address, ""),), guest=address if ssh_files else None, guest_key="key")
    api = more.pop("api", ModelApi("ANTHROPIC_API_KEY", "sk-model", "http://127.0.0.1:9"))
    return Job(
        vm="devvm",
        sid=resume or str(uuid.uuid4()),
        resume=bool(resume),
        prompt=prompt,
        agents=brief.build_agents(BRIEF, vm, tools),
        rules=brief.list_tool_rules(vm, tools),
        verbs=brief.list_verbs(tools),
        api=api,
        ssh_files=ssh_files or {},
        **more,
    )


class Turn:
    """A running turn. Iterate over it for its events. `transcript` has the lines of the transcript so far."""

    def __init__(self, job: Job, program: str | Path, transcript: bytes = b"") -> None:
        self.job, self.events, self.transcript = job, list[Event](), bytearray(transcript)
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(300)  # a turn of thirty commands, on a busy machine
        with theirs:
            self.process = subprocess.Popen(
                starter_command(),
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                env={},
                cwd="/",
                start_new_session=True,
                **as_handler(),
            )
        self._lines = self.socket.makefile("rb")
        self.send(encode_opening(Opening(str(program), transcript=len(transcript)), job), transcript)

    def __enter__(self) -> "Turn":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self.socket.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def send(self, *lines: bytes) -> None:
        self.socket.sendall(b"".join(lines))

    def stop(self, why: str) -> None:
        self.send(encode_line({"stop": why}))

    def __iter__(self) -> Iterator[Event]:
        for text in self._lines:
            line = json.loads(text)
            if "transcript" in line:
                piece = decode_piece(line)
                assert piece.at in (0, len(self.transcript))
                self.transcript[piece.at :] = piece.data
            elif "pve" in line:
                exit, said = ask_nothing(line["line"])
                self.send(encode_line({"pve": line["pve"], "exit": exit, "text": said}))
            else:
                assert line["n"] == len(self.events) + 2
                self.events.append(line)
                yield line

    def until(self, kind: str) -> Event:
        """Read on to the next event of a type."""
        for event in self:
            if event["type"] == kind:
                return event
        raise AssertionError(f"no {kind} in {self.events}")

    def rest(self) -> list[Event]:
        """Read to the end; return all events."""
        for _ in self:
            pass
        self.process.wait(60)
        return self.events

    @property
    def tools(self) -> list[tuple[str, bool, str]]:
        """Each tool call, with its success and its output."""
        calls = {event["id"]: event["input"].get("command", "") for event in self.events if event["type"] == "tool"}
        results = [event for event in self.events if event["type"] == "tool_result"]
        return [(calls[event["id"]], event["ok"], event["text"]) for event in results]


def run(job: Job, program: str | Path, transcript: bytes = b"") -> Turn:
    """Run a turn to its end."""
    with Turn(job, program, transcript) as turn:
        turn.rest()
    return turn


# It replaces claude. It runs its prompt as a script, either as one of claude's commands or as claude itself, and prints
# the output.
_RUNNER = f"""#!{PYTHON} -IS
import json, os, subprocess, sys
def emit(**line):
    print(json.dumps(line), flush=True)
script = sys.stdin.read()
words = [os.environ["CLAUDE_CODE_SHELL_PREFIX"]] if AS_COMMAND else ["/bin/bash", "-c"]
with open(os.environ["HOME"] + "/output", "w+b") as output:  # a pipe would be open for as long as what lives on
    subprocess.run([*words, script], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    output.seek(0)
    text = output.read().decode(errors="replace")
for at in range(0, len(text), 8000):
    content = [{{"type": "text", "text": text[at : at + 8000]}}]
    emit(type="assistant", message={{"id": str(at), "content": content}})
emit(type="result", subtype="success", is_error=False, result="", num_turns=1, duration_ms=5)
"""


def write_runner(directory: Path, as_command: bool) -> Path:
    """Write the program that runs its prompt as a script, either as one of claude's commands or as claude itself."""
    path = directory / ("runs-a-command" if as_command else "is-taken-over")
    path.write_text(_RUNNER.replace("AS_COMMAND", str(as_command)))
    path.chmod(0o755)
    let_in(path)
    return path


def texts(events: Sequence[Event]) -> str:
    """Return all texts of a turn."""
    return "".join(event.get("text", "") for event in events if event["type"] == "text")


class WithGuest(Sshd):
    """The server with a second account. The guest's key gets a shell there, as at a VM's own sshd."""

    def __init__(self, world: World) -> None:
        self.guest_key = asyncssh.generate_private_key("ssh-ed25519")
        match = f"Match User guest\n    AuthorizedKeysFile {GUEST_KEYS}"
        super().__init__(world, f"PerSourcePenalties no\n{match}\n")

    def _write_accounts(self) -> None:
        super()._write_accounts()
        self.home = self.directory / "home"
        self.home.mkdir()
        os.chown(self.home, GUEST_UID, GUEST_UID)
        (self.keys.parent / "guest").write_text(self.guest_key.export_public_key().decode())
        for name, line in (
            ("passwd", f"guest:x:{GUEST_UID}:{GUEST_UID}::{self.home}:/bin/sh\n"),
            ("shadow", "guest:*:20000::::::\n"),
        ):
            path = self.directory / name
            path.write_text(path.read_text() + line)
