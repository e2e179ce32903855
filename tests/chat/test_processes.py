"""Claude's process: its user, its memory score, and its descendants."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from breakglass.claude.processes import MEMORY_SCORE, list_descendants, send_signal

from ..support.signals import signal_process

ROOT = str(Path(__file__).parent.parent.parent)
# what was imported stays; then the user changes, and like a runner it is not dumpable
_START = """
import os, sys
sys.path.insert(0, sys.argv[1])
from breakglass.claude.processes import PR_SET_DUMPABLE, prctl, raise_oom_score, start_program
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
prctl(PR_SET_DUMPABLE, 0)
null = os.open("/dev/null", os.O_RDWR)
pid, status = start_program(["/bin/sleep", "60"], {}, "/", None, (null, null, null))
assert os.read(status, 16) == b""
raise_oom_score(pid)
print(pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.real("root")
def test_a_handler_without_root_starts_claude_as_well() -> None:
    """Without root the handler can't write to its own files in /proc; the kernel still kills claude first."""
    with subprocess.Popen(
        [sys.executable, "-I", "-c", _START, ROOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as ours:
        assert ours.stdin is not None
        assert ours.stdout is not None
        pid = int(ours.stdout.readline())
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == str(MEMORY_SCORE)
        assert Path(f"/proc/{pid}").stat().st_uid == 65534
        ours.stdin.close()


# its first thread ends, and the kernel calls the whole program a zombie while the other one lives
_HALF = """
import ctypes, os, subprocess, threading
def work():
    child = subprocess.Popen(["/bin/sleep", "60"])
    print(child.pid, flush=True)
    child.wait()
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
"""


def test_what_a_half_dead_program_started_is_found() -> None:
    """The children of a zombie with a second thread are still found."""
    with subprocess.Popen([sys.executable, "-I", "-c", _HALF], stdout=subprocess.PIPE) as half:
        assert half.stdout is not None
        child = int(half.stdout.readline())
        try:
            until = time.monotonic() + 10
            while ") Z" not in Path(f"/proc/{half.pid}/stat").read_text():
                assert time.monotonic() < until
                time.sleep(0.01)
            assert child in list_descendants(os.getpid())
            assert send_signal(half.pid, signal.SIGKILL) == 1
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal_process(child, signal.SIGKILL)
