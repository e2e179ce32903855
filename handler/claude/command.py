"""The one way that claude is started: its arguments, its environment, the files around it, its user.

It works with an API key, an auth token and an OAuth token alike, and takes nothing from disk but what is written here.
The prompt goes in on standard input: an argument could be a flag, and `ps` would show it. Measured with CLI 2.1.331.
"""

import errno
import json
import os
import pwd
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ..config.model import ChatSettings, Vm
from ..proxmox.connect import public_key
from . import brief, ssh_files
from .runner_job import RunnerJob

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
# What an operator may not set: no attached files, no work after the answer, no traffic but to the model.
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
class TurnRequest:
    """A turn that a caller may begin. `sid`, a UUID, is new, or that of the session that `resume` continues."""

    turn: str
    caller: str
    vm: Vm
    prompt: str
    sid: str
    resume: bool = False
    token: str = ""
    digest: str = ""
    still_open: Sequence[Mapping[str, str]] = ()  # proposals of earlier turns

    @property
    def metadata(self) -> dict[str, str]:
        """Return what is kept about the turn beside its events."""
        return {"vm": self.vm.name, "sid": self.sid, "digest": self.digest}


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


def prepare(settings: ChatSettings, request: TurnRequest, directory: Path) -> RunnerJob:
    """Return how to run claude for a turn, and write what it needs into the turn's own, new directory.

    What it may not change is ours and read-only; it owns its transcripts, a directory for scraps, and the socket's.
    Raises OSError when that can't be written, LookupError for a user that is not there, ValueError for a bad key.
    """
    uid, gid = account(settings)
    config = Path(settings.sessions_dir).absolute() / "claude" / request.sid
    socket = f"{directory}/key/agent"
    if len(os.fsencode(socket)) > _SOCKET_BYTES:
        raise OSError(errno.ENAMETOOLONG, "too long for a socket; choose a shorter sessions.dir", socket)
    _write_turn_files(request.vm, directory)
    config.parent.mkdir(0o711, exist_ok=True)
    for owned in (config, directory / _SCRAPS, directory / "key"):
        _make_owned_dir(owned, uid, gid)
    env = {**_DEFAULTS, **settings.env, **_FIXED, **_own(directory, config)}
    if request.vm.agent_key:
        env["SSH_AUTH_SOCK"] = socket
    return RunnerJob(
        argv=_arguments(settings, request, directory),
        env=env,
        cwd=str(directory / "cwd"),
        prompt=request.prompt,
        vm=request.vm.name,
        uid=uid,
        gid=gid,
        agent_key=request.vm.agent_key,
        agent_socket=socket,
        turn_seconds=settings.turn_seconds,
    )


def _arguments(settings: ChatSettings, request: TurnRequest, directory: Path) -> tuple[str, ...]:
    """Return the command line. The program is found on our PATH, for claude's own is another."""
    program = shutil.which(settings.command) or settings.command
    rules = brief.rules(request.vm)
    allowed = (f"--allowedTools={','.join(rules)}",) if rules else ()
    which = f"--resume={request.sid}" if request.resume else f"--session-id={request.sid}"
    return (program, *_FLAGS, f"--agents={directory}/agents.json", f"--agent={brief.AGENT}", *allowed, which)


def _own(here: Path, config: Path) -> dict[str, str]:
    return {
        "PATH": f"{here}/bin:{PATH}",
        "HOME": str(config),
        "CLAUDE_CONFIG_DIR": str(config),
        "CLAUDE_CODE_SHELL_PREFIX": f"{here}/shell",
        "CLAUDE_CODE_TMPDIR": f"{here}/{_SCRAPS}",
    }


def _write_turn_files(vm: Vm, directory: Path) -> None:
    """Write what claude may read and not change, and an empty directory for it to be in."""
    agents = json.dumps(brief.agent(BRIEF.read_text(encoding="utf-8"), vm))
    made = ssh_files.files(vm, _public_key(vm), str(directory))
    for name, (text, mode) in {**made, "agents.json": (agents, 0o444)}.items():
        path = directory / name
        path.parent.mkdir(0o755, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
    (directory / "cwd").mkdir(0o555)
    directory.chmod(0o711)


def _public_key(vm: Vm) -> str:
    if not vm.agent_key:
        return ""
    try:
        return public_key(vm.agent_key)
    except ValueError as error:
        raise ValueError(f"vms.{vm.name}.agent_key can't be used: {error}") from None


def _make_owned_dir(directory: Path, uid: int | None, gid: int | None) -> None:
    """Make a directory that only claude's user can enter."""
    directory.mkdir(0o700, exist_ok=True)
    if uid is not None and gid is not None and directory.stat().st_uid != uid:
        os.chown(directory, uid, gid)
