"""The job that the handler gives to a turn's runner. Standard library only, because the runner runs isolated."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from ..config.model_api import ModelApi


class RunnerJob(NamedTuple):
    """One turn to run: claude's command, its limits, and the descriptors that the runner inherits.

    If `walled`, the command line begins with bubblewrap's. `uids` has the first and the last user id for claude, of
    which the runner takes one and sets `uid`. If it is empty, claude runs as the handler's own user; if root starts the
    runner, `own` has that user and group. The turn's directory belongs to `owner`.
    `commands` are the names that the runner serves on the socket `listener` (commands.py), with the configuration
    `ssh_config`; `verbs` are those that `pve` takes. The turn is cancelled when the file `cancel` exists. With an
    `api`, the runner serves it on the socket `api_listener` (side_processes.py). claude is in the network namespace
    `network`, as that socket is, or in the machine's for -1. The runner puts claude into `cgroup`, if it has made
    one. The session's transcript comes from the file `source`, -1 for none, and goes to the file `target`, SID.new
    of the directory `transcripts`, where it replaces SID.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    prompt: str
    vm: str
    walled: bool = False
    sid: str = ""
    directory: str = ""
    owner: int = -1
    own: tuple[int, ...] = ()
    uids: tuple[int, ...] = ()
    uid: int | None = None
    vmid: int = 0
    commands: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ()
    ssh_config: str = ""
    cancel: str = ""
    api: ModelApi | None = None
    turn_seconds: float = 1800
    silence_seconds: float = 120.0
    log: int = -1
    lock: int = -1
    control: int = -1
    listener: int = -1
    api_listener: int = -1
    network: int = -1
    cgroup: str = ""
    source: int = -1
    target: int = -1
    transcripts: int = -1

    @property
    def descriptors(self) -> list[int]:
        """The descriptors that the runner inherits."""
        found = (self.log, self.lock, self.control, self.listener, self.api_listener, self.network)
        return [fd for fd in (*found, self.source, self.target, self.transcripts) if fd >= 0]

    @property
    def sessions(self) -> str:
        """The directory that the turn's own lies in, two levels above it."""
        return self.directory.rsplit("/", 2)[0]

    @property
    def home(self) -> str:
        """The directory that claude's own files are in, one of the two that belong to its user."""
        return f"{self.directory}/home"

    def __repr__(self) -> str:
        """Return the command alone: the environment, the prompt and the key are secrets."""
        return f"RunnerJob(argv={self.argv!r})"

    def to_json(self) -> bytes:
        """Return the job as the runner reads it from standard input."""
        return json.dumps(self._asdict()).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "RunnerJob":
        """Return the job that `to_json` wrote."""
        fields = json.loads(data)
        api = ModelApi(*fields["api"]) if fields["api"] else None
        tuples = {name: tuple(fields[name]) for name in ("argv", "commands", "verbs", "uids", "own")}
        return cls(**{**fields, **tuples, "api": api})
