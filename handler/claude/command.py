"""Decides how claude is started: its arguments, its environment, its files and its user.

The credential of the model's API is no part of it: side_processes.py gives claude a token in its place. claude reads no
settings from disk except the files that this module writes. The prompt goes to standard input: as an argument it could
be taken for a flag, and `ps` would show it. Tried with CLI 2.1.331.
"""

import errno
import json
import os
import shutil
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from ..config.model import ChatSettings, Vm
from . import brief, sandbox
from .brief import HOST, command_names, list_verbs, render_ssh_files
from .runner_job import RunnerJob
from .uids import HANDED

BRIEF = files("breakglass.agents") / "breakglass.md"
PATH = "/usr/local/bin:/usr/bin:/bin"
SOCKET_BYTES = 107  # unix(7)

# claude offers Grep and Glob only by name and without --bare. With a snapshot a session would keep its first brief.
_FLAGS = (
    *("-p", "--output-format=stream-json", "--verbose", "--include-partial-messages"),
    *("--setting-sources=", "--strict-mcp-config", "--disable-slash-commands", "--system-prompt-snapshot=off"),
    *("--permission-mode=default", "--permission-prompts=none", "--tools=Bash,Read,Grep,Glob"),
)

# An operator may override these. Without the first two, claude reports an API that is down after three minutes.
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
}


@dataclass(frozen=True)
class ClaudeTurn:
    """What claude gets in a turn.

    `sid` is a UUID: a new one, or with `resume` that of the session to continue. `tools` is one of TOOLS (brief.py), or
    empty.
    """

    vm: Vm
    prompt: str
    sid: str
    resume: bool = False
    tools: str = ""


def list_flags() -> list[str]:
    """Return the options that each turn gives claude, without their values."""
    own = ("--agents", "--agent", "--allowedTools", "--session-id", "--resume")
    return [flag.partition("=")[0] for flag in (*_FLAGS, *own) if flag.startswith("--")]


def prepare_job(settings: ChatSettings, turn: ClaudeTurn, directory: Path, own: int | None = None) -> RunnerJob:
    """Write the files of a turn into its new directory, and return the job for its runner.

    The runner makes claude's home and its temporary directory belong to claude's user; every other file stays ours.
    claude can read those it needs, and none of those in `ssh`. Raises OSError when a file can't be written.
    """
    vm = replace(turn.vm, guest=None) if turn.tools == HOST else turn.vm
    turn = replace(turn, vm=vm)
    _write_turn_files(turn, directory, not settings.shared_uid or sandbox.own_sandbox_works(own))
    env = {**_DEFAULTS, **settings.env, **_FIXED, **_turn_env(directory)}
    wall = _wall(settings, directory, own)
    return RunnerJob(
        argv=(*wall, *_arguments(settings, turn, directory)),
        walled=bool(wall),
        env=env,
        cwd=str(directory / sandbox.CWD),
        prompt=turn.prompt,
        vm=vm.name,
        sid=turn.sid,
        directory=str(directory),
        owner=os.geteuid(),
        uids=settings.uids,
        vmid=vm.vmid,
        commands=command_names(vm),
        verbs=list_verbs(turn.tools),
        ssh_config=f"{directory}/ssh/config",
        turn_seconds=settings.turn_seconds,
        api=settings.api,
    )


def _wall(settings: ChatSettings, directory: Path, own: int | None) -> Sequence[str]:
    """Return the command line before claude's own; nothing for a claude that is missing, which the runner reports."""
    program = shutil.which(settings.command)
    if program is None:
        return ()
    if settings.shared_uid:
        return sandbox.low_wall_arguments() if sandbox.own_wall_works(own) else ()
    return sandbox.wall_arguments(os.path.realpath(program), str(directory))


def _arguments(settings: ChatSettings, turn: ClaudeTurn, directory: Path) -> tuple[str, ...]:
    """Return the command line. The program is looked up on our PATH, because claude gets another one."""
    found = shutil.which(settings.command)
    program = os.path.realpath(found) if found else settings.command
    rules = brief.list_tool_rules(turn.vm, turn.tools)
    allowed = (f"--allowedTools={','.join(rules)}",) if rules else ()
    session = f"--resume={turn.sid}" if turn.resume else f"--session-id={turn.sid}"
    return (program, *_FLAGS, f"--agents={directory}/agents.json", f"--agent={brief.AGENT}", *allowed, session)


def _turn_env(here: Path) -> dict[str, str]:
    return {
        "PATH": f"{here}/bin:{PATH}",
        "HOME": f"{here}/{sandbox.HOME}",
        "CLAUDE_CONFIG_DIR": f"{here}/{sandbox.HOME}",
        "CLAUDE_CODE_SHELL_PREFIX": f"{here}/shell",
        "CLAUDE_CODE_TMPDIR": f"{here}/{sandbox.SCRAPS}",
    }


def _write_turn_files(turn: ClaudeTurn, directory: Path, sandboxed: bool) -> None:
    """Write the files that claude may read but not change, those of ssh, and make claude's empty directories."""
    vm = turn.vm
    agents = json.dumps(brief.build_agents(BRIEF.read_text(encoding="utf-8"), vm, turn.tools))
    made = {
        "agents.json": (agents, 0o444),
        "shell": (sandbox.render_shell(str(directory), sandboxed), 0o555),
        **{f"bin/{name}": (sandbox.client_text(), 0o555) for name in command_names(vm)},
        **{f"ssh/{name}": made for name, made in render_ssh_files(vm, f"{directory}/ssh").items()},
    }
    for name, mode in (("bin", 0o755), ("ssh", 0o700), (sandbox.CWD, 0o555), *((name, 0o700) for name in HANDED)):
        (directory / name).mkdir()
        (directory / name).chmod(mode)  # whatever the umask is
    for name, (text, mode) in made.items():
        _write(directory / name, text, mode)
    directory.chmod(0o711)


def _write(path: Path, text: str, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)


def listen_for_commands(directory: Path) -> socket.socket:
    """Return the socket on which the runner serves claude's commands. Raises OSError."""
    path = f"{directory}/{sandbox.SOCKET}"
    if len(os.fsencode(path)) > SOCKET_BYTES:
        raise OSError(errno.ENAMETOOLONG, "too long for a socket; choose a shorter sessions.dir", path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    os.chmod(path, 0o666)  # noqa: S103  # claude's user may connect, and the runner looks who it is
    listener.listen()
    return listener
