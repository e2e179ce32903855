"""A turn's own ssh-agent: it runs as claude's user, holds one key, and never had that key in a file.

Standard library only, for the runner, whose child it becomes: it ends with whatever else the turn has left, and ten
seconds after a runner that was killed.
"""

import os
import select
import signal
import subprocess
from dataclasses import dataclass

from .processes import PR_SET_PDEATHSIG, prctl

SECONDS = 10.0
_PATH = {"PATH": "/usr/bin:/bin"}
# ssh-agent listens before it runs its command, and ends soon after it: when our end of the pipe is gone, that is.
_WHILE_WE_LIVE = 'echo "$SSH_AGENT_PID"; exec cat'


@dataclass(frozen=True)
class SshAgent:
    """A running ssh-agent; it runs for as long as `process` has its standard input."""

    process: "subprocess.Popen[bytes]"
    pid: int


def run_ssh_agent(key: str, socket: str, uid: int | None, gid: int | None) -> int:
    """Return the pid of a new child that starts the ssh-agent and stays as long as that runs.

    The child's exit is not 0 when the key could not be loaded. Whatever hangs, hangs in the child: the socket is under
    sessions.dir, which may be a network's.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            start_ssh_agent(key, socket, uid, gid).process.wait()
            code = 0
    finally:
        os._exit(code)


def start_ssh_agent(key: str, socket: str, uid: int | None, gid: int | None) -> SshAgent:
    """Start an ssh-agent that listens on `socket` and give it the private key.

    Raises OSError when it can't be started, subprocess.SubprocessError when it doesn't listen or take the key in time.
    Only root and the agent's own user can talk to it: ssh-agent checks the user of each connection.
    """
    process = subprocess.Popen(
        ["ssh-agent", "-a", socket, "/bin/sh", "-c", _WHILE_WE_LIVE],
        env=_PATH,
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        user=uid,
        group=gid,
        extra_groups=None if uid is None else (),
    )
    pid = _first_line(process)
    if not pid.isdigit():
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        raise subprocess.CalledProcessError(process.wait(SECONDS), "ssh-agent")
    subprocess.run(
        ["ssh-add", "-q", "-"],
        env={**_PATH, "SSH_AUTH_SOCK": socket},
        input=f"{key.strip()}\n".encode(),
        check=True,
        timeout=SECONDS,
        stderr=subprocess.DEVNULL,
    )
    return SshAgent(process, int(pid))


def _first_line(process: "subprocess.Popen[bytes]") -> bytes:
    """Return the short line that a process prints first, or nothing when none comes in time."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], SECONDS)
    return os.read(process.stdout.fileno(), 64).strip() if ready else b""
