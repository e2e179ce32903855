"""The one way that claude is started: which words, which environment, which files around it, as whom.

It works with an API key, an auth token and an OAuth token alike, and takes nothing from disk but what is written here.
The prompt goes in on standard input: an argument could be a flag, and `ps` would show it. Measured with CLI 2.1.331.
"""

import errno
import json
import os
import pwd
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from ..config.model import ChatSettings, Vm
from . import brief, ssh_files
from .brief import approval

__all__ = ["Launch", "Turn", "account", "approval", "command"]

BRIEF = files("breakglass.agents") / "breakglass.md"
PATH = "/usr/local/bin:/usr/bin:/bin"
_SCRAPS = "scraps"
_SOCKET_BYTES = 107  # unix(7)

# Grep and Glob are to be had only by name and without --bare. The prompt of a first turn is kept unless that is off.
_FLAGS = (
    *("-p", "--output-format=stream-json", "--verbose", "--include-partial-messages"),
    *("--setting-sources=", "--strict-mcp-config", "--disable-slash-commands", "--system-prompt-snapshot=off"),
    *("--permission-mode=default", "--permission-prompts=none", "--tools=Bash,Read,Grep,Glob"),
)

# What an operator may set otherwise. Without the first two, a service that is down is reported after three minutes.
_DEFAULTS = {
    "CLAUDE_CODE_MAX_RETRIES": "2",
    "API_TIMEOUT_MS": "30000",
    "BASH_MAX_OUTPUT_LENGTH": "20000",
    "LANG": "C.UTF-8",
}
# What nobody may: files that a text names, work that goes on after the answer, words to anybody but the model.
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
class Turn:
    """One turn. `directory` is new, its own, and gone when it has ended; `sid` is a UUID already."""

    sid: str
    resume: bool
    vm: Vm
    caller: str
    prompt: str
    directory: Path


@dataclass(frozen=True)
class Launch:
    """What to start. `uid` and `gid` are None where claude runs as ourselves. When there is an `agent_key`, an agent
    that holds it is to listen on `agent_socket` (ssh_agent.py)."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path
    uid: int | None
    gid: int | None
    agent_key: str = field(default="", repr=False)
    agent_socket: str = ""


def account(settings: ChatSettings) -> tuple[int | None, int | None]:
    """Return the user and group that claude runs as, None for our own; raise LookupError for a user that is not
    there. ssh refuses a user without an account, so there is no other way to name one."""
    if not settings.user:
        return None, None
    try:
        entry = pwd.getpwnam(settings.user)
    except KeyError:
        raise LookupError(f'there is no user "{settings.user}" on this machine') from None
    return (None, None) if entry.pw_uid == os.geteuid() else (entry.pw_uid, entry.pw_gid)


def command(settings: ChatSettings, turn: Turn) -> Launch:
    """Return how to start claude for a turn, and write what it needs into the turn's directory.

    What it may not change is ours and read-only; it owns its transcripts, a directory for scraps, and the socket's.
    Raises OSError when that can't be written, LookupError for a user that is not there, ValueError for a bad key.
    """
    uid, gid = account(settings)
    here, config = turn.directory, Path(settings.sessions_dir).absolute() / "claude" / turn.sid
    socket = f"{here}/key/agent"
    if len(os.fsencode(socket)) > _SOCKET_BYTES:
        raise OSError(errno.ENAMETOOLONG, "too long for a socket; choose a shorter sessions.dir", socket)
    _furnish(turn)
    config.parent.mkdir(0o711, exist_ok=True)
    for directory in (config, here / _SCRAPS, here / "key"):
        _give(directory, uid, gid)
    env = {**_DEFAULTS, **settings.env, **_FIXED, **_own(here, config)}
    if not turn.vm.agent_key:
        return Launch(_words(settings, turn), env, here / "cwd", uid, gid)
    env["SSH_AUTH_SOCK"] = socket
    return Launch(_words(settings, turn), env, here / "cwd", uid, gid, turn.vm.agent_key, socket)


def _words(settings: ChatSettings, turn: Turn) -> tuple[str, ...]:
    """Return the command line. The program is found on our PATH, for claude's own is another."""
    program = shutil.which(settings.command) or settings.command
    rules = brief.rules(turn.vm)
    allowed = (f"--allowedTools={','.join(rules)}",) if rules else ()
    which = f"--resume={turn.sid}" if turn.resume else f"--session-id={turn.sid}"
    return (program, *_FLAGS, f"--agents={turn.directory}/agents.json", f"--agent={brief.AGENT}", *allowed, which)


def _own(here: Path, config: Path) -> dict[str, str]:
    return {
        "PATH": f"{here}/bin:{PATH}",
        "HOME": str(config),
        "CLAUDE_CONFIG_DIR": str(config),
        "CLAUDE_CODE_SHELL_PREFIX": f"{here}/shell",
        "CLAUDE_CODE_TMPDIR": f"{here}/{_SCRAPS}",
    }


def _furnish(turn: Turn) -> None:
    """Write what claude may read and not change, and an empty directory for it to be in."""
    agents = json.dumps(brief.agent(BRIEF.read_text(encoding="utf-8"), turn.vm))
    made = ssh_files.files(turn.vm, _public_key(turn.vm), str(turn.directory))
    for name, (text, mode) in {**made, "agents.json": (agents, 0o444)}.items():
        path = turn.directory / name
        path.parent.mkdir(0o755, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
    (turn.directory / "cwd").mkdir(0o555)
    turn.directory.chmod(0o711)


def _public_key(vm: Vm) -> str:
    if not vm.agent_key:
        return ""
    from ..proxmox.connect import public_key  # the runner, which needs `approval` alone, does without it

    try:
        return public_key(vm.agent_key)
    except ValueError as error:
        raise ValueError(f"vms.{vm.name}.agent_key can't be used: {error}") from None


def _give(directory: Path, uid: int | None, gid: int | None) -> None:
    """Make a directory that is claude's alone."""
    directory.mkdir(0o700, exist_ok=True)
    if uid is not None and gid is not None and directory.stat().st_uid != uid:
        os.chown(directory, uid, gid)
