"""What a demo leaves: finds its processes, and removes all of it if the demo was killed.

A demo's processes have its directory in their command line or open files. A person's `tail` or `breakglass chat` in
another terminal is none of them: the terminal is looked at, and the environment is not.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..base.isolated import isolated_command

SECONDS = 10.0  # for claude's turn, which ends by itself after the handler has ended
_PAUSE = 0.05


def wait_for_end(directory: str) -> list[int]:
    """Wait until a demo's processes have ended, and return those that are left after SECONDS."""
    until = time.monotonic() + SECONDS
    while (left := list(_find_processes(directory, os.getsid(0)))) and time.monotonic() < until:
        time.sleep(_PAUSE)
    return left


def _find_processes(directory: str, session: int) -> Iterator[int]:
    """Yield the processes that use the directory, except those at another terminal than this session's."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid() and _uses(entry, directory, session):
            yield int(entry.name)


def _uses(process: Path, directory: str, session: int) -> bool:
    """Return whether a process uses the directory. False for another user's process, or an ended one."""
    mark = os.fsencode(directory)
    try:
        its, terminal = process.joinpath("stat").read_text().rpartition(")")[2].split()[3:5]
        if terminal != "0" and int(its) != session:
            return False
        if mark in process.joinpath("cmdline").read_bytes():
            return True
        return any(directory in os.readlink(link) for link in process.joinpath("fd").iterdir())
    except OSError:
        return False


@contextmanager
def guarded(directory: str) -> Iterator[None]:
    """Have another process remove what is left of the demo after this process, even after a SIGKILL."""
    command = isolated_command("demo.leftovers")
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env={}, cwd="/") as guard:
        assert guard.stdin
        # not in its command line, because there it would itself be found
        guard.stdin.write(f"{os.getsid(0)} {directory}\n".encode())
        guard.stdin.flush()
        yield


def main() -> None:
    """Wait until the demo closes its end of the input, or the kernel does because it was killed. Remove the rest."""
    session, _, directory = sys.stdin.readline().rstrip("\n").partition(" ")
    sys.stdin.read()
    if Path(directory).exists():
        for pid in _find_processes(directory, int(session)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(directory, ignore_errors=True)
