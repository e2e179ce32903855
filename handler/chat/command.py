"""How claude is started: its arguments, its environment and its files.

The credential of the model's API is not included, because the model proxy replaces PLACEHOLDER with it. claude reads no
settings from disk except the files that this module writes. The prompt goes to standard input, because as an argument
it could be taken for a flag, and `ps` would show it. Tested with CLI 2.1.331.
"""

import json
import socket
import subprocess
from typing import NamedTuple

from . import wall
from .job import Job
from .relay import PORT

PLACEHOLDER = "the-model-proxy-has-it"

# claude offers Grep and Glob only if they are named and --bare is not given. A session must not keep a snapshot of its
# settings, because it would then keep the brief of its first turn.
_FLAGS = (
    *("-p", "--output-format=stream-json", "--verbose", "--include-partial-messages"),
    *("--setting-sources=", "--strict-mcp-config", "--disable-slash-commands", "--system-prompt-snapshot=off"),
    *("--permission-mode=default", "--permission-prompts=none"),
)

# An operator may override these. Without the first two, claude takes three minutes to report that the API is down.
_DEFAULTS = {
    "CLAUDE_CODE_MAX_RETRIES": "2",
    "API_TIMEOUT_MS": "30000",
    "BASH_MAX_OUTPUT_LENGTH": "20000",
    "LANG": "C.UTF-8",
}
# An operator can't override these: no attached files, no work after the answer, no traffic except to the model.
_FIXED = {
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "1",
    "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_TELEMETRY": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_AUTOUPDATER": "1",
    "SHELL": "/bin/bash",
    "PATH": f"{wall.BIN}:{wall.PATH}",
    "HOME": wall.HOME,
    "CLAUDE_CONFIG_DIR": wall.HOME,
    "CLAUDE_CODE_SHELL_PREFIX": wall.SHELL,
    "CLAUDE_CODE_TMPDIR": wall.SCRAPS,
    "ANTHROPIC_BASE_URL": f"http://127.0.0.1:{PORT}",
}


class Started(NamedTuple):
    """The processes of a turn, and the socket of claude's commands."""

    claude: subprocess.Popen[bytes]
    proxy: subprocess.Popen[bytes]
    commands: socket.socket


def list_flags() -> list[str]:
    """Return the names of the options with which each turn starts claude."""
    own = ("--tools", "--agents", "--agent", "--allowedTools", "--session-id", "--resume")
    return [flag.partition("=")[0] for flag in (*_FLAGS, *own) if flag.startswith("--")]


def build_arguments(job: Job) -> list[str]:
    """Return the arguments that claude gets in a turn."""
    allowed = [f"--allowedTools={','.join(job.rules)}"] if job.rules else []
    session = f"--resume={job.sid}" if job.resume else f"--session-id={job.sid}"
    tools = ["--tools=Bash,Read,Grep,Glob"] if job.verbs else ["--tools=", "--max-turns=1"]  # an opinion has none
    return [*_FLAGS, *tools, f"--agents={wall.AGENTS}", f"--agent={next(iter(job.agents))}", *allowed, session]


def build_environment(job: Job) -> dict[str, str]:
    """Return claude's whole environment.

    It includes the credential's variable, because that name decides which header claude uses.
    """
    return {**_DEFAULTS, **job.env, **_FIXED, job.api.variable: PLACEHOLDER}


def transcript_path(sid: str) -> str:
    """Return the file in which claude keeps a session."""
    return f"{wall.TRANSCRIPTS}/{sid}.jsonl"


def write_files(job: Job, transcript: bytes) -> None:
    """Write the read-only files for claude and ssh, and create the directories that claude may write to."""
    wall.make_places()
    wall.write_file(wall.AGENTS, json.dumps(job.agents), 0o444)
    for name in ("pve", *([job.vm] if job.ssh_files else [])):
        wall.write_file(f"{wall.BIN}/{name}", f"#!{wall.PYTHON} -IS\n{wall.read_program('client.py')}", 0o555)
    for name, text in job.ssh_files.items():
        wall.write_file(f"{wall.SSH}/{name}", text, 0o400)
    if transcript:
        with open(transcript_path(job.sid), "xb") as file:
            file.write(transcript)
