"""Process 1 of a container reaps orphans, forwards signals, and ends with the handler's exit code.

tests/deploy/test_container.py does it in the image.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..support.rows import each_row
from ..support.signals import signal_process
from ..support.stages import until

pytestmark = [pytest.mark.real("mounts"), pytest.mark.quick]

BEGIN = """
import os, signal, sys
from breakglass.cli.process import leave_process_1
leave_process_1()
"""
ORPHAN = """
if os.fork() == 0:
    os.fork()  # this one's parent ends without waiting for it
    os._exit(0)
os.wait()
"""
READY = "print('ready', flush=True)\n"


@contextmanager
def namespace(program: str) -> Iterator["subprocess.Popen[str]"]:
    argv = ["unshare", "--pid", "--mount-proc", "--fork", "--kill-child", sys.executable, "-c", BEGIN + program]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_an_orphan_is_reaped() -> None:
    """The child is its only remaining process and continues."""
    with namespace(ORPHAN * 3 + READY + "sys.stdin.read()") as process:
        [first] = children(process.pid)
        until(lambda: len(children(first)) == 1, "the end of the orphans")
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0


@each_row(("action", "code"), [("lambda *_: os._exit(7)", 7), ("signal.SIG_DFL", 128 + signal.SIGTERM)])
def test_a_signal_reaches_the_child_and_its_code_comes_back(action: str, code: int) -> None:
    """Process 1 needs a handler for SIGTERM, because the kernel drops the signal if it has none."""
    with namespace(f"signal.signal(15, {action})\n{READY}while True: signal.pause()") as process:
        [first] = children(process.pid)
        signal_process(first, signal.SIGTERM)
        assert process.wait(60) == code
