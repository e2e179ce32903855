"""Starts claude's process, and finds and ends its descendants.

Standard library only, for the runner. The kernel's parent links decide what is a descendant, not the session or process
group. The runner is the subreaper of its descendants, so none of them moves to init. Signals go through a pidfd that is
opened before the process is looked up again, so a pid that was reused meanwhile is not hit.
"""

import ctypes
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 36, 38
# In bytes; claude and ssh run with them.
LIMITS = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 64 << 20, resource.RLIMIT_AS: 8 << 30}
PROCESSES = 128  # of a turn's user, with threads
KILL_SECONDS = 1.0  # for the end of a process that was killed
MEMORY_SCORE = 500  # when memory runs out, the kernel kills claude before the handler
_KEYCTL, _JOIN_SESSION_KEYRING = {"x86_64": 250, "aarch64": 219}, 1  # keyctl(2) has no function in the C library

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process. See its manual page. Raises OSError."""
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def leave_keyring() -> None:
    """Take an empty session keyring, see session-keyring(7): all who have one can use its keys, whatever their user."""
    if number := _KEYCTL.get(os.uname().machine):
        _libc.syscall(number, _JOIN_SESSION_KEYRING, None)  # where it is not allowed, claude may not use keys either


def _drop_capabilities() -> None:
    """Give up every capability, see capset(2). Without root, setuid keeps those that a service manager granted."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if _libc.capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def start_program(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    uid: int | None,
    fds: tuple[int, int, int],
    prepare: Callable[[], None] = lambda: None,
    enter: Callable[[], None] = lambda: None,
) -> tuple[int, int]:
    """Start a program with `fds` as its standard streams and no other descriptor; return its pid and a status pipe.

    It runs as the user `uid`, or as ours for None. Its process first calls `enter`, with our rights, and then
    `prepare`, with those of that user.
    The status pipe is closed, empty, once the program runs; it has an errno when the program could not be started.
    Reading it can block for as long as a file system hangs. The program leads its own session and is killed when this
    process ends.
    """
    status, status_w = os.pipe()  # closed by a successful exec
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(status)
            enter()
            _set_up_child(uid, fds, env)
            prepare()
            os.chdir(cwd)
            if os.getppid() != parent:
                os._exit(0)
            os.execvpe(argv[0], list(argv), dict(env))  # noqa: S606  # there is no shell in it
        except BaseException as error:
            number = error.errno if isinstance(error, OSError) and error.errno else 5
            os.write(status_w, str(number).encode())
        finally:
            os._exit(127)
    os.close(status_w)
    return pid, status


def fork_child(work: Callable[[], None], close: Sequence[int]) -> int:
    """Do `work` in a child without the descriptors in `close`; return its pid.

    The child is killed when this process ends, and ended by SIGTERM.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            for fd in close:
                os.close(fd)
            if os.getppid() == parent:
                work()
        finally:
            os._exit(1)
    return pid


def raise_oom_score(pid: int) -> None:
    """Make the kernel kill a program before the handler when memory runs out.

    Before its exec the program is not dumpable, because its parent is not, and only root can write this file: then
    nothing changes.
    """
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(MEMORY_SCORE))
    except OSError:  # it has ended, or can't be written
        pass


def _set_up_child(uid: int | None, fds: Sequence[int], env: Mapping[str, str]) -> None:
    os.setsid()
    for wanted, fd in enumerate(fds):
        os.dup2(fd, wanted)  # every fd given is above 2
    if uid is not None:
        raise_oom_score(os.getpid())  # for what bubblewrap forks, too; a handler that is not root may not write it
        resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES, PROCESSES))  # counts all of a user's, so not for our own
    _become(uid)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    home = env.get("CLAUDE_CONFIG_DIR")
    if home and not os.access(
        home, os.W_OK | os.X_OK
    ):  # claude would answer, and lose the conversation without an error
        raise OSError(30, "read-only", home)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


def _become(uid: int | None) -> None:
    """Set the limits of what runs for claude, and its user and group."""
    for limit, value in LIMITS.items():
        resource.setrlimit(limit, (value, value))
    leave_keyring()
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        _drop_capabilities()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after setuid, which clears it


def run_as(uid: int | None, work: Callable[[], None], until: float) -> int:
    """Do `work` in a child with the rights of a user, or with ours for None; kill it when its time is over.

    Return 0, the number of the OSError that it raised, 255 for another failure, or -SIGKILL. The process must have no
    threads.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            _become(uid)
            if os.getppid() == parent:
                work()
                code = 0
        except OSError as error:
            code = error.errno or code
        finally:
            os._exit(code)
    pidfd = os.pidfd_open(pid)
    try:
        for seconds in (max(until - time.monotonic(), 0), KILL_SECONDS):
            if select.select([pidfd], [], [], seconds)[0]:
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
    return -signal.SIGKILL  # it hangs in the kernel, and is left behind


def has_processes(uid: int) -> bool:
    """Tell whether a user has a process on this machine; one that has ended and waits for its parent does not count."""
    try:
        os.getpriority(os.PRIO_USER, uid)
    except ProcessLookupError:
        return False
    return any(_is_alive(name, uid) for name in os.listdir("/proc") if name.isdigit())


def _is_alive(name: str, uid: int) -> bool:
    try:
        with open(f"/proc/{name}/status", "rb") as file:
            lines = dict(line.split(b":", 1) for line in file if line.startswith((b"State:", b"Uid:", b"Threads:")))
    except OSError:  # it has ended
        return False
    return int(lines[b"Uid"].split()[0]) == uid and _has_thread(lines[b"State"].split()[0], lines[b"Threads"])


def _has_thread(state: bytes, threads: bytes) -> bool:
    """Tell whether a process lives: once its first thread has ended it is a zombie, and others may go on."""
    return state not in (b"Z", b"X") or int(threads) > 1


def list_descendants(root: int) -> list[int]:
    """Return the living processes below `root`, parents before their children. The search goes on below zombies."""
    children: dict[int, list[tuple[int, bool]]] = {}
    for pid, parent, alive in _list_processes():
        children.setdefault(parent, []).append((pid, alive))
    found, waiting = [], [root]
    while waiting:
        below = children.pop(waiting.pop(0), [])
        found += [pid for pid, alive in below if alive]
        waiting += [pid for pid, _ in below]
    return found


def _list_processes() -> Iterator[tuple[int, int, bool]]:
    """Yield each process, its parent, and whether it is alive."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()  # proc_pid_stat(5), from its field 3 on
                yield int(name), int(fields[1]), _has_thread(fields[0], fields[17])
            except (OSError, IndexError):
                continue


def send_signal(root: int, number: int, only: int | None = None) -> int:
    """Send a signal to all descendants of `root`, or only to one; return how many there were."""
    found = [pid for pid in list_descendants(root) if only in (None, pid)]
    opened = [(pid, fd) for pid in found if (fd := _open_pidfd(pid)) is not None]
    still_there = set(list_descendants(root))
    for pid, fd in opened:
        try:
            if pid in still_there:
                signal.pidfd_send_signal(fd, number)
        except OSError:  # it has ended, or this user may not signal it
            pass
        finally:
            os.close(fd)
    return len(found)


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def reap_children() -> dict[int, int]:
    """Reap every child that has ended; return the exit of each, negative for a signal."""
    ended: dict[int, int] = {}
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended
