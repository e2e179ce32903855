"""Processes of the stand-ins: their names, the commands that they run, and the error that ends one."""

import os
import select
import signal
from collections.abc import Iterator

# --- The error that ends a command of Proxmox ---


class Died(Exception):
    """Raised with Proxmox's error message; the command exits with `code`, which is 255 for a task."""

    def __init__(self, words: str, code: int = 255) -> None:
        super().__init__(words)
        self.code = code


# --- Processes of the stand-ins: their names, the commands that they run, and their background processes ---
#
# Every process that a host's commands start has the host's root in its environment, even after it changes its name.

ROOT = "BREAKGLASS_DEMO_ROOT"


def name_process(words: list[str], short: str) -> None:
    """Change this process's command line in /proc and ps, as Perl does when `$0` is set (proc(5))."""
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, fields 48 and 49
    line = "\0".join(words).encode()[: end - begin - 1].ljust(end - begin, b"\0")
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(begin)
        memory.write(line)
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write(short[:15])


def name_perl(tool: str, *words: str) -> None:
    """Give this process the command line of one of Proxmox's tools."""
    name_process(["/usr/bin/perl", "-T", f"/usr/sbin/{tool}", *words], tool)


def run_command(argv: list[str], limit: float | None = None) -> int:
    """Run a command with our output and return its exit code.

    If it takes too long, or if this process is interrupted, kill it and raise Died.
    """
    pid = os.posix_spawnp(argv[0], argv, os.environ, setsigdef=[signal.SIGPIPE])
    try:
        if not wait_for_end(pid, limit):
            raise Died("got timeout")
    except Died:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_for_end(pid: int, limit: float | None) -> bool:
    """Wait for a process; return whether it ended in time."""
    pidfd = os.pidfd_open(pid)
    try:
        return bool(select.select([pidfd], [], [], limit)[0])
    finally:
        os.close(pidfd)


def processes_of(root: str) -> Iterator[int]:
    """Yield the pid of each live process that this host's commands started."""
    mark = f"{ROOT}={root}".encode()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if mark in file.read().split(b"\0"):
                    yield int(pid)
        except OSError:
            continue


def end_processes(root: str, spared: tuple[str, ...] = (), limit: float = 5.0) -> None:
    """Kill all processes of this host and their new children, except those with a name in `spared`.

    Wait until they have ended. After `limit` seconds, a process that hangs in the kernel is left.
    """
    stuck: set[int] = set()
    while pids := [pid for pid in processes_of(root) if pid not in stuck and name_of(pid) not in spared]:
        for pid in pids:
            if not _kill(pid, limit):
                stuck.add(pid)


def name_of(pid: int) -> str:
    """Return the short name of a process, or an empty text if it has ended."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def _kill(pid: int, limit: float) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return bool(select.select([pidfd], [], [], limit)[0])
    except ProcessLookupError:
        return True
    finally:
        os.close(pidfd)
