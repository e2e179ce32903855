"""The job that the handler gives to a turn's runner. Standard library only, because the runner runs isolated."""

import json
from collections.abc import Mapping
from typing import NamedTuple

from ..config.model_api import ModelApi


class RunnerJob(NamedTuple):
    """One turn to run: claude's command, its limits, and the descriptors that the runner inherits.

    With `walled`, the command line begins with bubblewrap's. `uid` and `gid` are None where claude runs as the
    handler's own user. `commands` are the names that the runner serves on the socket `listener` (commands.py), with
    the configuration `ssh_config`. The turn is cancelled when the file `cancel` exists. With an `api`, the
    runner serves it on the socket `api_listener` (model_proxy.py).
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    prompt: str
    vm: str
    walled: bool = False
    uid: int | None = None
    gid: int | None = None
    vmid: int = 0
    commands: tuple[str, ...] = ()
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
        return cls(**{**fields, "argv": tuple(fields["argv"]), "commands": tuple(fields["commands"]), "api": api})
