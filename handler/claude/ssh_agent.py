"""A turn's own ssh-agent: it runs as claude's user, holds one key, and never had that key in a file.

Standard library only, for the runner, whose child it becomes: it ends with whatever else the turn has left, and ten
seconds after a runner that was killed.
"""

import subprocess
from dataclasses import dataclass

SECONDS = 10.0
_PATH = {"PATH": "/usr/bin:/bin"}
# ssh-agent listens before it runs its command, and ends soon after it: when our end of the pipe is gone, that is.
_WHILE_WE_LIVE = 'echo "$SSH_AGENT_PID"; exec cat'


@dataclass(frozen=True)
class Agent:
    """A running agent; it is there for as long as `process` has its standard input."""

    process: "subprocess.Popen[str]"
    pid: int


def hold(key: str, socket: str, uid: int | None, gid: int | None) -> Agent:
    """Start an agent that listens on `socket` and give it the private key.

    Raises OSError when it can't be started, subprocess.SubprocessError when it does not do as it is told. Root may talk
    to another user's agent, and nobody else but that user: ssh-agent looks at who connects.
    """
    process = subprocess.Popen(
        ["ssh-agent", "-a", socket, "/bin/sh", "-c", _WHILE_WE_LIVE],
        env=_PATH,
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        user=uid,
        group=gid,
        extra_groups=None if uid is None else (),
    )
    assert process.stdout is not None
    pid = process.stdout.readline()
    if not pid.strip().isdigit():
        raise subprocess.CalledProcessError(process.wait(SECONDS), "ssh-agent")
    subprocess.run(
        ["ssh-add", "-q", "-"],
        env={**_PATH, "SSH_AUTH_SOCK": socket},
        input=f"{key.strip()}\n",
        check=True,
        timeout=SECONDS,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    return Agent(process, int(pid))
