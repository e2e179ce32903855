"""The processes of one turn: claude started in its own world, and everything that descends from it found and ended.

Standard library only, for the runner. A descendant is one by the parent that the kernel names, whatever session or
group it moved to; the runner is their subreaper, so none is ever lost to init. Signals go by pidfd, opened before the
process is looked at again: a number that was given to somebody else meanwhile is not hit.
"""

import ctypes
import os
import signal
from collections.abc import Iterator, Mapping, Sequence

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36
MEMORY_SCORE = 500  # when memory runs out, claude goes before the handler

_libc = ctypes.CDLL(None, use_errno=True)


def prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def start(
    argv: Sequence[str], env: Mapping[str, str], cwd: str, ids: tuple[int | None, int | None], fds: tuple[int, int, int]
) -> tuple[int, int]:
    """Start a program with `fds` as its standard streams and no other descriptor; return its pid and a descriptor.

    That descriptor ends without a word once the program runs; before that it may bring the errno of a failure. Reading
    it can block for as long as a file system hangs. The program leads its own session and dies with this process.
    """
    status, status_w = os.pipe()  # closed by a successful exec
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(status)
            _set_up_child(ids, cwd, fds, env)
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


def raise_oom_score(pid: int) -> None:
    """Let the kernel end a program before the handler when memory runs out.

    Call it after the program's exec: before that it is not dumpable, as its parent is not, and only root can write this
    file.
    """
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(MEMORY_SCORE))
    except OSError:  # it has ended, or may not be read
        pass


def _set_up_child(ids: tuple[int | None, int | None], cwd: str, fds: Sequence[int], env: Mapping[str, str]) -> None:
    os.setsid()
    for wanted, fd in enumerate(fds):
        os.dup2(fd, wanted)  # every fd given is above 2
    uid, gid = ids
    if gid is not None:
        os.setgroups([gid])
        os.setgid(gid)
    if uid is not None:
        os.setuid(uid)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # after setuid, which clears it
    os.chdir(cwd)
    home = env.get("CLAUDE_CONFIG_DIR")
    if home and not os.access(home, os.W_OK | os.X_OK):  # claude itself would answer and forget, without a word
        raise OSError(30, "read-only", home)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


def descendants(root: int) -> list[int]:
    """Return the living processes below `root`, parents before their children. One may lie below a zombie: a program
    of several threads is one from the end of its first on, and keeps its children until the last has ended."""
    children: dict[int, list[tuple[int, bool]]] = {}
    for pid, parent, alive in _all():
        children.setdefault(parent, []).append((pid, alive))
    found, waiting = [], [root]
    while waiting:
        below = children.pop(waiting.pop(0), [])
        found += [pid for pid, alive in below if alive]
        waiting += [pid for pid, _ in below]
    return found


def _all() -> Iterator[tuple[int, int, bool]]:
    """Yield each process, its parent, and whether it is more than a zombie."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
            except (OSError, ValueError):
                continue
            yield int(name), int(parent), state != b"Z"


def send(root: int, number: int, only: int | None = None) -> int:
    """Send a signal to what descends from `root`, or to `only` that one of them; return how many there were."""
    found = [pid for pid in descendants(root) if only in (None, pid)]
    held = [(pid, fd) for pid in found if (fd := _held(pid)) is not None]
    still = set(descendants(root))
    for pid, fd in held:
        try:
            if pid in still:
                signal.pidfd_send_signal(fd, number)
        except OSError:  # it has ended, or is not ours to signal
            pass
        finally:
            os.close(fd)
    return len(found)


def _held(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def reap() -> dict[int, int]:
    """Collect every child that has ended; return the exit of each, negative for a signal."""
    ended: dict[int, int] = {}
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return ended
            ended[pid] = os.waitstatus_to_exitcode(status)
    except ChildProcessError:
        return ended
