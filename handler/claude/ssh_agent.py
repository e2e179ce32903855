"""Starts a turn's ssh-agent, which runs as claude's user and holds one key that is never written to a file.

Standard library only, for the runner. The ssh-agent is a child of the runner and ends with the turn, or at most ten
seconds after a runner that was killed.
"""

import os
import select
import signal
import subprocess

from .processes import PR_SET_PDEATHSIG, prctl

SECONDS = 10.0
_PATH = {"PATH": "/usr/bin:/bin"}
# ssh-agent listens before it runs its command, and ends soon after that command, which ends when our pipe is closed.
_UNTIL_PIPE_CLOSES = 'echo "$SSH_AGENT_PID"; exec cat'


class SshAgent:
    """A running ssh-agent. It runs until the standard input of `process` is closed."""

    def __init__(self, process: "subprocess.Popen[bytes]", pid: int) -> None:
        self.process, self.pid = process, pid


def run_ssh_agent(key: str, socket: str, uid: int | None, gid: int | None) -> int:
    """Fork a child that starts the ssh-agent and runs for as long as it does; return the child's pid.

    The child's exit is not 0 when the key could not be loaded. A child does this because the socket is under
    sessions.dir, which may be on a network file system that hangs.
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

    Raises OSError when it can't be started, and subprocess.SubprocessError when it doesn't listen or accept the key in
    time. Only root and its own user can use it: ssh-agent checks the user of each connection.
    """
    process = subprocess.Popen(
        ["ssh-agent", "-a", socket, "/bin/sh", "-c", _UNTIL_PIPE_CLOSES],
        env=_PATH,
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        user=uid,
        group=gid,
        extra_groups=None if uid is None else (),
    )
    pid = _read_first_line(process)
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


def _read_first_line(process: "subprocess.Popen[bytes]") -> bytes:
    """Return the first, short line that a process prints, or nothing when none comes in time."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], SECONDS)
    return os.read(process.stdout.fileno(), 64).strip() if ready else b""
