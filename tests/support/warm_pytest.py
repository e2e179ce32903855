"""Runs pytest in forks of one process that has loaded all modules that are not ours, because loading takes a second.

Each line of the input has the seconds and the arguments of one run, as JSON. Each line of the output has its exit code,
or null if it took too long. Our own modules and the tests are loaded by each run.
"""

import json
import os
import random
import select
import signal
import sys
from contextlib import suppress
from importlib import import_module

import pytest

OURS = ("breakglass", "tests", "conftest", "__main__")


def _run(arguments: list[str]) -> int:
    random.seed()
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    return int(pytest.main(["-q", "-W", "ignore::pytest.PytestAssertRewriteWarning", *arguments]))


def _fork(arguments: list[str]) -> int:
    if pid := os.fork():
        return pid
    code = 3
    try:
        code = _run(arguments)
    finally:
        os._exit(code)


def _load() -> None:
    """Load what the tests load, as a first run finds out."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            _run(["--collect-only", "-m", "not all", "tests/unit", "tests/agent", "tests/handler"])
            with os.fdopen(writer, "w") as pipe:
                json.dump([name for name in sys.modules if name.partition(".")[0] not in OURS], pipe)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        names = json.load(pipe)
    os.wait()
    for name in names:
        with suppress(Exception):  # some modules can't be loaded by their name
            import_module(name)


def _wait(pid: int, seconds: float) -> int | None:
    """Return the exit code of a process, or None if it had to be ended. SIGTERM lets pytest end what it started."""
    pidfd, ended = os.pidfd_open(pid), False
    for patience, number in ((seconds, signal.SIGTERM), (60, signal.SIGKILL)):
        if select.select([pidfd], [], [], patience)[0]:
            break
        signal.pidfd_send_signal(pidfd, number)
        ended = True
    os.close(pidfd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if ended else code


def main() -> None:
    """Answer each line of the input."""
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        _load()
        for line in sys.stdin:
            seconds, *arguments = json.loads(line)
            print(json.dumps(_wait(_fork(arguments), seconds)), file=answers)


if __name__ == "__main__":
    main()
