"""What the launcher does as root for a turn: it checks the descriptors, starts the runner, and removes the files.

Directories that root writes into belong to root: a name in a directory of the handler's user could become a link
at any moment. Of the handler's own directories only descriptors are used, and only those of the turn's own files.
"""

import contextlib
import errno
import fcntl
import os
import pwd
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..config.model import Config
from .command import ClaudeTurn
from .directory_id import find_directory_id
from .eventlog import append_events, build_ending
from .homes import empty_directory, remove_directory
from .isolation import HANDLERS, isolation_fault
from .launch_messages import ACCEPTED, FAILED, Message
from .processes import run_as
from .start import Account, TurnFds, start_turn
from .uids import REMOVAL_SECONDS

LogLine = Callable[..., None]

_MOST_LINKS = 40  # as for the kernel
START_SECONDS, CHECK_SECONDS = 10, 20  # for a disk; then the signal ends the process that waits for it
NOT_STARTED = "the turn could not be started: {error!r}"
HINT = "check [chat] and the log; the power verbs don't need claude"


def check_chat(config: Config, account: Account) -> str:
    """Make the directories of sessions.dir, and return why claude would not be isolated, or ""."""
    signal.alarm(CHECK_SECONDS)
    try:
        return _find_unsafe(config, account) or _make_directories(config, account) or isolation_fault(config)
    except OSError as error:
        return f"sessions.dir can't be used: {error}"


def _find_unsafe(config: Config, account: Account) -> str:
    """Return how the handler's user can change the program, or another user than root the configuration; or ""."""
    if code := find_changeable(account):
        return f"root runs {code}, and the handler's user can change it: {_mend(code)}"
    for file in config.files:
        if where := find_writable(Path(file)):
            return f"a user who is not root can write or replace {file}; {_mend(where)}"
    return ""


def find_changeable(account: Account) -> Path | None:
    """Return the first file of this program, or directory of one, that a user can change by its owner, group or mode.

    What the handler's user writes there would be root's at the next start.
    """
    uid, gid = account
    groups = {gid, *os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)}
    named = (getattr(module, "__file__", None) for module in tuple(sys.modules.values()))
    paths = {name for name in (sys.executable, *named) if name}
    for folder in set(map(os.path.realpath, set(map(os.path.dirname, paths)))):
        paths |= {folder, *map(str, Path(folder).parents)}
    for path in sorted(paths):
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(path)
            mode = found.st_mode & ~(stat.S_IWOTH if found.st_mode & stat.S_ISVTX else 0)
            is_theirs = found.st_uid == uid or (found.st_gid in groups and mode & stat.S_IWGRP)
            if uid != 0 and (is_theirs or mode & stat.S_IWOTH):
                return Path(path)
    return None


def find_writable(path: Path) -> Path | None:
    """Return the first directory, link or file on the way to a path that another user than root can change, or None.

    A path that does not exist is looked at as far as it does.
    """
    with contextlib.suppress(FileNotFoundError):
        for step in _steps(path):
            status = step.lstat()
            is_open = status.st_mode & 0o022 and not (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX)
            if status.st_uid != 0 or (is_open and not stat.S_ISLNK(status.st_mode)):
                return step
    return None


def _steps(path: Path) -> Iterator[Path]:
    """Yield what the kernel goes through on its way to a file: each directory, each link, and the file."""
    at, names, links = Path("/"), list(path.absolute().parts[:0:-1]), 0
    yield at
    while names:
        name = names.pop()
        step = at.parent if name == ".." else at / name
        yield step
        if not step.is_symlink() or str(at).startswith("/proc/"):  # a link there is no text
            at = step
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, "too many links", str(path))
        target = Path(os.readlink(step))
        at = Path("/") if target.is_absolute() else at
        names += target.parts[: 0 if target.is_absolute() else None : -1]


def _mend(path: Path) -> str:
    """Return the commands after which only root can change a directory, a link or a file."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"chown -h root {path}"
    return f"chown root {path}; chmod {755 if stat.S_ISDIR(mode) else 640} {path}"


def _make_directories(config: Config, account: Account) -> str:
    top = Path(config.sessions_dir).absolute()
    for _ in range(2):  # root makes nothing in a place that is not its own
        if where := find_writable(top):
            return f"sessions.dir and all directories above it must be root's: {_mend(where)}"
        top.mkdir(0o711, parents=True, exist_ok=True)
    there = {path.name for path in top.iterdir()} - {"lost+found"}
    if there and not there & {"turns", "id", "pairing"}:  # it may be "/", and root changes modes there
        return f"sessions.dir, {top}, has files of others and none of ours; give it a directory of its own"
    for name in HANDLERS:
        (top / name).mkdir(0o700, exist_ok=True)
        os.chown(top / name, *account, follow_symlinks=False)
    (top / "work").mkdir(0o700, exist_ok=True)
    os.chown(top / "work", 0, account[1], follow_symlinks=False)
    os.chmod(top / "work", 0o751)  # noqa: S103  # claude's users enter some directories below
    find_directory_id(str(top), account[1])
    return ""


def run_turn(
    config: Config, account: Account, message: Message, fds: Sequence[int], turn: int, log_line: LogLine
) -> None:
    """Start the runner of a turn, wait for its end, and remove the turn's files.

    The reply is accepted before the start. Once the runner has ended, `turn` and then the reply are closed. What goes
    wrong in between is written into the turn's log.
    """
    signal.alarm(START_SECONDS)
    reply, turn_fds = fds[0], TurnFds(*fds[1:])
    top = Path(os.path.realpath(config.sessions_dir))  # claude asks what its directory is called
    work = top / "work" / message.name
    if why := _find_foreign(top, account[0], message, turn_fds):
        log_line("launcher-refused", why=why)
        send_reply(reply, FAILED, why)
        return
    send_reply(reply, ACCEPTED)
    is_made, process = False, None
    try:
        vm = config.vms.get(message.vm)
        if vm is None or config.chat is None:
            raise LookupError(f"the launcher's configuration has no VM {message.vm}")
        claude_turn = ClaudeTurn(vm, message.prompt, message.sid, message.resume, message.tools)
        work.mkdir(0o700)
        is_made = True
        process = start_turn(config.chat, claude_turn, work, top / "turns" / message.name / "cancel", turn_fds, account)
    except Exception as error:  # a full disk, a defect of ours
        with contextlib.suppress(OSError):
            append_events(turn_fds.log, build_ending("claude-crashed", NOT_STARTED.format(error=error), HINT, 2))
    finally:
        for fd in fds[1:]:
            os.close(fd)
    signal.alarm(0)
    if process is not None:
        process.wait()
    os.close(turn)
    os.close(reply)
    if is_made:
        try:
            _remove_work_dir(work)
        except OSError as error:  # the handler asks for it again
            log_line("not-removed", path=f"work/{work.name}", error=repr(error))


def remove_below(config: Config, name: str, reply: int) -> None:
    """Remove a directory below sessions.dir, and reply whether that went well."""
    try:
        _remove_work_dir(Path(config.sessions_dir).absolute() / name)
    except OSError as error:
        send_reply(reply, FAILED, str(error))
    else:
        send_reply(reply, ACCEPTED)


def _remove_work_dir(path: Path) -> None:
    """Remove the directory of a turn, with the rights of its owner. Raises OSError when something is left.

    A disk that hangs ends this process: another one that waits for the same name there could not end before it.
    """
    signal.alarm(int(REMOVAL_SECONDS) + 1)
    until = time.monotonic() + REMOVAL_SECONDS
    try:
        owner = path.lstat().st_uid
        if owner == os.geteuid():
            remove_directory(str(path), until)
        else:  # the handler's own, with shared_uid
            run_as(owner, lambda: empty_directory(str(path), until), until)
            path.rmdir()
    except FileNotFoundError:  # another handler was first
        pass


def _find_foreign(top: Path, uid: int, message: Message, fds: TurnFds) -> str:
    """Return which descriptor is not the turn's own, or "".

    The runner writes to them, and renames in the directory, as root. So each has to be the file of that name, and to
    belong to the handler's user. No other process may hold the locks of log and lock, and the control has to be open.
    """
    waiting = select.poll()
    waiting.register(fds.control, 0)
    if not is_unix_socket(fds.control) or waiting.poll(0):  # then another turn may have the locks by now
        return "the control of the turn is not open"
    transcripts = top / "transcripts"
    expected = {
        fds.log: top / "turns" / message.name / "log",
        fds.lock: top / "locks" / message.sid,
        fds.target: transcripts / f"{message.sid}.new",
        fds.transcripts: transcripts,
        **({fds.source: transcripts / message.sid} if fds.source >= 0 else {}),
    }
    for fd, path in expected.items():
        try:
            found, named = os.fstat(fd), path.lstat()
            is_own = os.path.samestat(found, named) and found.st_uid == uid
            is_own = is_own and (stat.S_ISDIR if path == transcripts else stat.S_ISREG)(found.st_mode)
            if fd in (fds.log, fds.lock):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            is_own = False
        if not is_own:
            return f"a descriptor is not {path.relative_to(top)}"
    return ""


def send_reply(reply: int, first: bytes, text: str = "") -> None:
    """Send a reply, unless the other side takes none."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(reply)) as opened:
        opened.send(first + text.encode("utf-8", "replace"), socket.MSG_DONTWAIT)


def is_unix_socket(fd: int) -> bool:
    """Tell whether a descriptor is a socket on this machine. Unlike stat(2), this asks no file system."""
    try:
        opened = socket.socket(fileno=fd)
    except OSError:
        return False
    try:
        return opened.family == socket.AF_UNIX
    finally:
        opened.detach()
