"""Runs `pve` and the guest's command for claude, outside claude's sandbox and under the runner's account.

Standard library only: this is a child of the runner. claude has no SSH key and no network for ssh. In its sandbox the
commands are clients (client.py) of a socket that only this process listens on. It checks who is at the other end,
matches the words, and starts ssh with the client's own standard streams.
"""

import json
import os
import re
import signal
import socket
import struct
from collections.abc import Sequence

from .processes import start_program
from .runner_io import Readers
from .runner_job import RunnerJob

AT_ONCE = 16
_BYTES = 65536
_FDS = 3
_ENV = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_UCRED = struct.Struct("iII")  # unix(7): pid, uid, gid
_OPTION = re.compile(r"(?!vm=)[a-z_]+=[A-Za-z0-9_.:@+-]{1,128}", re.ASCII)
_GUEST_USAGE = "usage: {name} COMMAND, which runs inside the VM"


def remote_command(name: str, words: Sequence[str], vmid: int, verbs: Sequence[str]) -> str | None:
    """Return what ssh has the other side run, None when the words are not what the command takes.

    `pve` takes one line of the host agent's grammar with one of `verbs`, without `vm=`: the turn's own VM is named
    here. The guest's command takes any text, and its words become one text as those of ssh do.
    """
    if "\0" in "".join(words):
        return None
    if name != "pve":
        return " ".join(words) or None
    verb, *options = " ".join(words).split() or [""]
    if verb not in verbs or not all(map(_OPTION.fullmatch, options)):
        return None
    return " ".join([verb, f"vm={vmid}", *options])


def serve(job: RunnerJob) -> None:
    """Serve claude's commands on the job's listener until this process is killed."""
    server = CommandServer(job)
    while True:
        server.readers.poll_once(3600)


class CommandServer:
    """The clients that have not spoken yet, and the running ssh of each of the others."""

    def __init__(self, job: RunnerJob) -> None:
        self.readers = Readers()
        self._job = job
        self._uid = os.getuid() if job.uid is None else job.uid
        self._listener = socket.socket(fileno=job.listener)
        self._waiting: set[socket.socket] = set()
        self._running: dict[int, socket.socket] = {}  # by the pidfd of ssh
        self.readers.add(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        if len(self._waiting) >= AT_ONCE:
            client.close()
            return
        self._waiting.add(client)
        self.readers.add(client.fileno(), lambda: self._read(client))

    def _read(self, client: socket.socket) -> None:
        """Read a client's request, or its end."""
        self.readers.remove(client.fileno())
        self._waiting.discard(client)
        fds: list[int] = []
        try:
            request, fds, _, _ = socket.recv_fds(client, _BYTES, _FDS, socket.MSG_CMSG_CLOEXEC)
            self._answer(client, request, fds)
        except (OSError, ValueError, RecursionError):
            client.close()
        finally:
            for fd in fds:
                os.close(fd)

    def _answer(self, client: socket.socket, request: bytes, fds: Sequence[int]) -> None:
        """Start the ssh that a request asks for. Raises ValueError when it is not the request of our client."""
        _, uid, _ = _UCRED.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        words = json.loads(request)
        if uid != self._uid or len(fds) != _FDS or not _are_texts(words):
            raise ValueError("not a request")
        name, *words = words
        if name not in self._job.commands:
            raise ValueError("no such command")
        text = remote_command(name, words, self._job.vmid, self._job.verbs)
        if text is None:
            _send_exit(client, 2, _describe_usage(name, self._job.verbs))
        elif len(self._running) >= AT_ONCE:
            _send_exit(client, 255, f"{AT_ONCE} commands are running already; wait until one has ended")
        else:
            argv = ("/usr/bin/ssh", "-F", self._job.ssh_config, name, "--", text)
            pid, status = start_program(argv, _ENV, "/", None, (fds[0], fds[1], fds[2]))
            os.close(status)  # ssh that can't be started ends with 127
            self._watch(client, pid)

    def _watch(self, client: socket.socket, pid: int) -> None:
        """Answer when ssh has ended; end ssh when its client has gone."""
        pidfd = os.pidfd_open(pid)

        def on_exit() -> None:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            self.readers.remove(pidfd)
            os.close(pidfd)
            if self._running.pop(pidfd).fileno() >= 0:
                self.readers.remove(client.fileno())
                _send_exit(client, code if code >= 0 else 128 - code)

        def on_client() -> None:  # it says nothing more, so it has gone
            self.readers.remove(client.fileno())
            client.close()
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)

        self._running[pidfd] = client
        self.readers.add(pidfd, on_exit)
        self.readers.add(client.fileno(), on_client)


def _describe_usage(name: str, verbs: Sequence[str]) -> str:
    if name != "pve":
        return _GUEST_USAGE.format(name=name)
    return f"usage: pve {' | '.join('job id=ID' if verb == 'job' else verb for verb in verbs)}"


def _are_texts(words: object) -> bool:
    return isinstance(words, list) and bool(words) and all(isinstance(word, str) for word in words)


def _send_exit(client: socket.socket, code: int, message: str = "") -> None:
    try:
        client.send(json.dumps({"exit": code, "said": message}).encode())
    except OSError:  # it has gone
        pass
    client.close()
