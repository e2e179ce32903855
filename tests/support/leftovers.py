"""Finds the processes and mounts that a test run has started and not ended.

A run has its own temporary directory. A process belongs to the run if its environment, its command line or its working
directory names that directory. The tests' environment names it as TMPDIR.
"""

import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path

GRACE_SECONDS = 30.0  # a busy machine is slow to end a process; there is no wait if all have ended
_NAME = "PYTEST_CURRENT_TEST"
_SHARED = "PYTEST_DEBUG_TEMPROOT"


def shared_directory() -> Path:
    """Return the temporary directory that all runs on this machine have in common."""
    return Path(os.environ.get(_SHARED) or tempfile.gettempdir())


def begin() -> Path:
    """Make the run's temporary directory. Everything that is started from now on uses it."""
    os.environ[_SHARED] = str(shared_directory())
    directory = Path(tempfile.mkdtemp(prefix="bg"))
    directory.chmod(0o1777)  # the mode of /tmp, because some tests run programs as other users
    os.environ["TMPDIR"] = str(directory)
    os.environ["BREAKGLASS_TEST_RUN"] = directory.name
    tempfile.tempdir = str(directory)
    return directory


def make_base() -> str:
    """Return the directory for `tmp_path`. After a failed run it is kept, so that a person can look at it.

    It is not pytest's own directory, because every run would close that for the users that other runs have let in.
    """
    return tempfile.mkdtemp(prefix="bgrun-", dir=shared_directory())


def end(directory: Path) -> list[str]:
    """Kill the run's processes and remove its directory. Return a text that names what was left."""
    pids = _wait_until_gone(directory)
    left = [_describe(pid) for pid in pids]
    for pid in pids:
        _kill(pid)
    mounts = _mounts_below(directory)
    left += [f"a mount: {mount}" for mount in mounts]
    if not mounts:  # an access to a mount that hangs would not return
        shutil.rmtree(directory, ignore_errors=True)
    return left


def _wait_until_gone(directory: Path) -> list[int]:
    """Return the run's processes that have not ended by themselves after a grace period."""
    until = time.monotonic() + GRACE_SECONDS
    while (pids := processes_of(directory)) and time.monotonic() < until:
        time.sleep(0.05)
    return pids


def processes_of(directory: Path) -> list[int]:
    """Return the pids of the run's processes, without this one."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return [pid for pid in pids if pid != os.getpid() and _belongs(pid, os.fsencode(directory))]


def _belongs(pid: int, directory: bytes) -> bool:
    places = _read(pid, "environ"), _read(pid, "cmdline"), _working_directory(pid)
    return any(directory in place for place in places)


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # it has ended, or belongs to another user
        return b""


def _working_directory(pid: int) -> bytes:
    try:
        return os.fsencode(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return b""


def _describe(pid: int) -> str:
    """Return a process's command line and, where its environment says so, the test that started it."""
    command = _read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
    variables = dict(entry.partition(b"=")[::2] for entry in _read(pid, "environ").split(b"\0"))
    test = variables.get(_NAME.encode(), b"").decode(errors="replace")
    return f"process {pid}: {command[:200]}" + (f"\n    started in {test}" if test else "")


def _kill(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], GRACE_SECONDS)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def _mounts_below(directory: Path) -> list[str]:
    targets = (line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines())
    return [target for target in targets if target.startswith(f"{directory}/")]
