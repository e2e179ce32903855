"""Claude's process: its user, its memory score, and its descendants."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.claude.processes import MEMORY_SCORE, has_processes, list_descendants, send_signal

from ..support.claude import UIDS
from ..support.signals import signal_process
from ..support.stages import until

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
import ctypes, os, subprocess, sys, threading
os.setuid(int(sys.argv[1]))
def work():
    child = subprocess.Popen(sys.argv[2:], stdin=0)
    print(child.pid, flush=True)
    child.wait()
    sys.stdin.read()
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
"""


@contextlib.contextmanager
def half_dead(*command: str, uid: int) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a program that is a zombie with a second thread; yield it, and the child that runs `command`."""
    words = [sys.executable, "-I", "-c", _HALF, str(uid), *command]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as half:
        assert half.stdout is not None
        assert half.stdin is not None
        child = int(half.stdout.readline())
        try:
            until(lambda: ") Z" in Path(f"/proc/{half.pid}/stat").read_text(), "the end of its first thread")
            yield half, child
        finally:
            half.stdin.close()
            with contextlib.suppress(ProcessLookupError):
                signal_process(child, signal.SIGKILL)


def test_a_half_dead_program_is_found() -> None:
    """And killed: a zombie with a second thread can do all that a process can. So are its children."""
    with half_dead("/bin/sleep", "60", uid=os.getuid()) as (half, child):
        assert {half.pid, child} <= set(list_descendants(os.getpid()))
        assert send_signal(half.pid, signal.SIGKILL) == 1
        assert send_signal(os.getpid(), signal.SIGKILL, only=half.pid) == 1
        assert half.wait(60) == -signal.SIGKILL


@pytest.mark.real("root")
def test_the_user_of_a_half_dead_program_has_a_process() -> None:
    """Another turn must not get its id. Once it is killed, nothing of it counts, although it is not reaped yet."""
    with half_dead("/bin/true", uid=UIDS[0]) as (half, child):
        until(lambda: not Path(f"/proc/{child}").exists(), "the end of its child")
        assert has_processes(UIDS[0])
        half.kill()
        os.waitid(os.P_PID, half.pid, os.WEXITED | os.WNOWAIT)
        assert not has_processes(UIDS[0])


# the number of a key in the session keyring, -1 for none; first, with an argument, a new keyring with the key
_KEY = """
import ctypes, os, sys
add_key, keyctl = {"x86_64": (248, 250), "aarch64": (217, 219)}[os.uname().machine]
call, session, description = ctypes.CDLL(None).syscall, -3, b"breakglass-test"
def search(): return call(keyctl, 10, session, b"user", description, 0)
if len(sys.argv) > 1:
    call(keyctl, 1, None)
    call(add_key, b"user", description, b"secret", 6, session)
    sys.path.insert(0, sys.argv[1])
    from breakglass.claude.processes import run_as, start_program
    null = os.open("/dev/null", os.O_RDWR)
    out = os.dup(1)
    print(search() > 0, flush=True)
    uid = int(sys.argv[2])
    run_as(uid, lambda: print(search() > 0, flush=True), 1e9)
    pid, _ = start_program([sys.argv[3], "-c", sys.argv[4]], {}, "/", uid, (null, out, out))
    os.waitpid(pid, 0)
else:
    print(search() > 0)
"""


@pytest.mark.real("root")
def test_the_handlers_keys_in_the_kernel_are_not_claudes() -> None:
    """Who has a session's keyring can read its keys, whatever its user, and leave some there for another turn."""
    words = [sys.executable, "-I", "-c", _KEY, ROOT, str(UIDS[0]), "/usr/bin/python3", _KEY]
    ran = subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True)
    assert ran.stdout.split()[1:] == ["False", "False"]
    assert ran.stdout.startswith("True"), "this system allows no keys"
