"""Processes: their identity and state, and the steps that keep this one alive.

A job leaves the SSH session, keeps its pages in memory, and is the last process that the OOM killer takes.
"""

import ctypes
import os
from collections.abc import Callable, Iterator

from .paths import boottime, read_small_file, write_atomic

_MCL_CURRENT_AND_FUTURE = 1 | 2
_MOST_FDS = 4096
_LOG_CHARS = 300  # the most of a line about a defect
_libc = ctypes.CDLL(None, use_errno=True)  # loaded at import, because nothing may be loaded from a disk later


def read_stat(process: int | str) -> tuple[str, list[str]]:
    """Return a process's short name and the fields of proc(5)'s stat after it, state first; empty without a process.

    Reading them never blocks, whatever the process does. `process` is a pid, or `PID/task/TID` for one of its threads.
    """
    head, _, tail = read_small_file(f"/proc/{process}/stat").rpartition(")")
    return head.partition("(")[2], tail.split()


def each_process() -> Iterator[tuple[int, str, list[str]]]:
    """Yield the pid of each process, and what `read_stat` returns for it."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := read_stat(name))[1]:
            yield int(name), *found


def process_ticks(pid: int) -> int:
    """Return the process's start time in clock ticks, 0 without such a process (proc(5), field 22).

    A process whose first thread has ended counts while another thread lives (field 20): a QEMU that was killed while
    one of its threads waits for storage looks like a zombie, but still holds its disks.
    """
    _, fields = read_stat(pid)
    if not fields:
        return 0
    ended = fields[0] in ("Z", "X") and int(fields[17]) <= 1
    return 0 if ended else int(fields[19])


def process_start() -> float:
    """Return when sshd forked this process, in seconds since the boot. An exec does not change that time.

    sshd makes the account's shell the leader of a session. Debian's shell forks once more to run a command, and it may
    itself have waited for a disk, so the shell's start counts.
    """
    parent = os.getppid()
    has_shell = os.getpgrp() == os.getsid(0) == parent and read_stat(parent)[0].endswith("sh")
    ticks = process_ticks(parent if has_shell else os.getpid())
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else boottime()


def write_process(path: str, pid: int) -> None:
    """Record a process by pid and start time, so that a later process with its pid is not mistaken for it."""
    write_atomic(path, f"{pid} {process_ticks(pid)}")


def read_process(path: str) -> int:
    """Return the pid of a recorded process, 0 when it has ended or none was recorded."""
    try:
        pid, ticks = map(int, read_small_file(path).split())
    except ValueError:
        return 0
    return pid if ticks and process_ticks(pid) == ticks else 0


def open_verified(pid: int, is_it: Callable[[], object]) -> int | None:
    """Return a pidfd of a process; None if it has ended, or `is_it()` says that it is another.

    The pidfd is opened first and verified after that, because a descriptor can't come to name another process later.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    if is_it():
        return pidfd
    os.close(pidfd)
    return None


def lock_memory() -> None:
    """Keep this process's pages in memory (mlockall(2)), so that a hung disk can't stop it, if it runs as root.

    Not inherited by fork: each job calls it again.
    """
    if os.geteuid() == 0:
        _libc.mlockall(_MCL_CURRENT_AND_FUTURE)


def set_oom_score(score: int) -> None:
    """Tell the OOM killer when to take this process: last of all at -1000, like any other process at 0."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(score))
    except OSError:
        pass


def close_standard_streams() -> None:
    """Replace stdin, stdout and stderr by /dev/null. They are the SSH channel, which must not wait for this process."""
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)


def spawn_detached(log: Callable[[str], None], name: str, body: Callable[[], None], kept: int = _MOST_FDS) -> None:
    """Run `body` in a process that no SSH connection, terminal or parent can end; return at once.

    A double fork with setsid(2). The process inherits no descriptor but `kept`, so it never writes to the SSH pipe.
    If it fails, it logs one line that begins with `name`, because it has no caller that could report the error.
    """
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                _leave_connection(kept)
                body()
        except Exception as error:
            log_error(log, name, error)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def log_error(log: Callable[[str], None], name: str, error: Exception) -> None:
    """Log an error that has no caller, on one line."""
    log(f"{name}: {type(error).__name__}: {error}"[:_LOG_CHARS])


def _leave_connection(kept: int) -> None:
    close_standard_streams()
    os.closerange(3, kept)
    os.closerange(kept + 1, _MOST_FDS)
    lock_memory()
    set_oom_score(-900)
