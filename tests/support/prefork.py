"""Starts the tests' handlers by forks of a process that has loaded the libraries, which take most of a start.

A handler's child has none of our modules. It runs `python -m breakglass` or `python -c CODE` from the first line on,
with its own user, environment, directory and output. Tests of the start itself, as in tests/handler/test_rights.py,
start a new Python.
"""

import json
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .signals import signal_process

_SERVER = """
import argparse, asyncssh, dataclasses, email.parser, gc, importlib.metadata, json, logging.handlers, os, runpy, signal
import sqlite3, starlette.applications, starlette.concurrency, starlette.requests, starlette.responses, sys, time
import tomllib
import uvicorn, uvicorn.protocols.http.httptools_impl

def name_process(words):
    # change the command line in /proc, by which `keys` recognizes a handler
    begin, end = map(int, open("/proc/self/stat").read().rpartition(")")[2].split()[45:47])
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(begin)
        memory.write("\\0".join(words).encode()[: end - begin - 1].ljust(end - begin, b"\\0"))

def run(environment, directory, output, errors, user, program):
    name_process([sys.executable, *program])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((2, errors), (1, output)):
        if name:
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), number)
    os.closerange(3, 256)
    if user:
        os.setgroups([])
        os.setresgid(*[user[1]] * 3)
        os.setresuid(*[user[0]] * 3)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()  # the server has read its own time zone
    option, what, *arguments = program
    sys.argv = [option, *arguments]
    if option == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        exec(what, {"__name__": "__main__"})

def reap(number, frame):
    try:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            tell(ended[0], os.waitstatus_to_exitcode(ended[1]))
    except ChildProcessError:  # there is no other child
        pass

def tell(*words):
    os.write(1, json.dumps(words).encode() + b"\\n")

exec(sys.argv[1])
gc.freeze()
signal.signal(signal.SIGCHLD, reap)
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which then ends the handlers
for line in sys.stdin:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})  # the start of a child is told before its end
    if (pid := os.fork()) == 0:
        run(*json.loads(line))
        sys.exit()
    tell(pid, None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
"""


class Forked:
    """A process that was forked, with what the tests use of a Popen."""

    def __init__(self, server: "_Server", pid: int) -> None:
        self._server, self.pid = server, pid

    @property
    def returncode(self) -> int | None:
        return self._server.codes[self.pid]

    def poll(self) -> int | None:
        while self._server.read(0):
            pass
        return self.returncode

    def wait(self, timeout: float = 600) -> int:
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if not self._server.read(max(0.0, end - time.monotonic())):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            signal_process(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen[bytes] | Forked


class _Server:
    """The process that forks. It ends when its input is closed, and so with this process."""

    def __init__(self, python: str, preloaded: str) -> None:
        command = [python, "-c", _SERVER, preloaded]
        self._process = subprocess.Popen(command, cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.codes: dict[int, int | None] = {}  # of each child; None while it runs

    def start(self, *what: object) -> Forked:
        """Fork a child, and return once it has its pid."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        while self.codes[pid := self._read()] is not None:
            pass  # this was the end of an earlier child
        return Forked(self, pid)

    def read(self, seconds: float) -> bool:
        """Read one line. Return False if none comes within these seconds."""
        assert self._process.stdout
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            return False
        self._read()
        return True

    def _read(self) -> int:
        assert self._process.stdout
        pid, code = json.loads(self._process.stdout.readline())
        self.codes[pid] = code
        return int(pid)

    def close(self) -> None:
        """End the process."""
        with self._process as process:
            assert process.stdin
            process.stdin.close()


_servers: dict[tuple[str, str], _Server] = {}  # for each Python, and for the code that it runs before it forks


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    output: Path,
    errors: Path | None,
    user: tuple[int, int] | None,
    preloaded: str = "",
) -> Forked:
    """Run a Python's command line as this user and group. Its output is appended to two files.

    The code in `preloaded` is run once, before the first fork.
    """
    python, *program = command
    if (python, preloaded) not in _servers:
        _servers[python, preloaded] = _Server(python, preloaded)
    paths = (str(directory), str(output), errors and str(errors))
    return _servers[python, preloaded].start(dict(environment), *paths, user, program)


def end() -> None:
    """End the processes that fork, if this run has started any."""
    while _servers:
        _servers.popitem()[1].close()
