"""Decides how claude is started: its arguments, its environment, its files and its user.

This works with an API key, an auth token and an OAuth token. claude reads no settings from disk except the files that
this module writes. The prompt goes to standard input: as an argument it could be taken for a flag, and `ps` would show
it. Tried with CLI 2.1.331.
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
from ..config.ssh_keys import public_key
from . import brief, ssh_files
from .runner_job import RunnerJob

BRIEF = files("breakglass.agents") / "breakglass.md"
PATH = "/usr/local/bin:/usr/bin:/bin"
_TEMPORARY = "scraps"
_SOCKET_BYTES = 107  # unix(7)

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
class TurnRequest:
    """A turn that a caller may start.

    `sid` is a UUID: a new one, or with `resume` that of the session to continue.
    """

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
        """What the store keeps about the turn beside its events."""
        return {"vm": self.vm.name, "sid": self.sid, "digest": self.digest}


def find_account(settings: ChatSettings) -> tuple[int | None, int | None]:
    """Return the user and group that claude runs as, or None and None for our own.

    Raises LookupError for a user without an account. A number is not accepted, because ssh refuses to run for a user
    without an account.
    """
    if not settings.user:
        return None, None
    try:
        entry = pwd.getpwnam(settings.user)
    except KeyError:
        raise LookupError(f'there is no user "{settings.user}" on this machine') from None
    return (None, None) if entry.pw_uid == os.geteuid() else (entry.pw_uid, entry.pw_gid)


def prepare_job(settings: ChatSettings, request: TurnRequest, directory: Path) -> RunnerJob:
    """Write the files of a turn into its new directory, and return the job for its runner.

    claude's user owns its transcripts, its temporary directory and the directory of its socket; every other file is
    ours and read-only. Raises OSError when a file can't be written, LookupError for a missing user, ValueError for a
    bad key.
    """
    uid, gid = find_account(settings)
    config = Path(settings.sessions_dir).absolute() / "claude" / request.sid
    socket = f"{directory}/key/agent"
    if len(os.fsencode(socket)) > _SOCKET_BYTES:
        raise OSError(errno.ENAMETOOLONG, "too long for a socket; choose a shorter sessions.dir", socket)
    _write_turn_files(request.vm, directory)
    config.parent.mkdir(0o711, exist_ok=True)
    for owned in (config, directory / _TEMPORARY, directory / "key"):
        _make_owned_dir(owned, uid, gid)
    env = {**_DEFAULTS, **settings.env, **_FIXED, **_turn_env(directory, config)}
    if request.vm.host.read_only_key:
        env["SSH_AUTH_SOCK"] = socket
    return RunnerJob(
        argv=_arguments(settings, request, directory),
        env=env,
        cwd=str(directory / "cwd"),
        prompt=request.prompt,
        vm=request.vm.name,
        uid=uid,
        gid=gid,
        agent_key=request.vm.host.read_only_key,
        agent_socket=socket,
        turn_seconds=settings.turn_seconds,
    )


def _arguments(settings: ChatSettings, request: TurnRequest, directory: Path) -> tuple[str, ...]:
    """Return the command line. The program is looked up on our PATH, because claude gets another one."""
    program = shutil.which(settings.command) or settings.command
    rules = brief.list_tool_rules(request.vm)
    allowed = (f"--allowedTools={','.join(rules)}",) if rules else ()
    session = f"--resume={request.sid}" if request.resume else f"--session-id={request.sid}"
    return (program, *_FLAGS, f"--agents={directory}/agents.json", f"--agent={brief.AGENT}", *allowed, session)


def _turn_env(here: Path, config: Path) -> dict[str, str]:
    return {
        "PATH": f"{here}/bin:{PATH}",
        "HOME": str(config),
        "CLAUDE_CONFIG_DIR": str(config),
        "CLAUDE_CODE_SHELL_PREFIX": f"{here}/shell",
        "CLAUDE_CODE_TMPDIR": f"{here}/{_TEMPORARY}",
    }


def _write_turn_files(vm: Vm, directory: Path) -> None:
    """Write the files that claude may read but not change, and make its empty working directory."""
    agents = json.dumps(brief.build_agents(BRIEF.read_text(encoding="utf-8"), vm))
    made = ssh_files.render_ssh_files(vm, _public_key(vm), str(directory))
    for name, (text, mode) in {**made, "agents.json": (agents, 0o444)}.items():
        path = directory / name
        path.parent.mkdir(0o755, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
    (directory / "cwd").mkdir(0o555)
    directory.chmod(0o711)


def _public_key(vm: Vm) -> str:
    if not vm.host.read_only_key:
        return ""
    try:
        return public_key(vm.host.read_only_key)
    except ValueError as error:
        raise ValueError(f"hosts.{vm.host.name}.read_only_key can't be used: {error}") from None


def _make_owned_dir(directory: Path, uid: int | None, gid: int | None) -> None:
    """Make a directory that only claude's user can enter."""
    directory.mkdir(0o700, exist_ok=True)
    if uid is not None and gid is not None and directory.stat().st_uid != uid:
        os.chown(directory, uid, gid)
