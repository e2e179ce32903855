"""`breakglass serve` and `launcher`: run the handler, or what starts chat's turns as root, until it is told to stop."""

import argparse
import contextlib
import os
import pwd
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..base import audit
from ..claude.processes import PR_SET_DUMPABLE, prctl
from ..config.load import config_path, load_config, read_server_user
from .account import MAKE_ONE, find_account, give_up_privileges, look_up, name_this_user
from .environment import port_number
from .output import DONE, CommandError
from .process import capture_prose, leave_process_1
from .starting import INSTALL_SSH, listen, load_as, load_server_modules, missing_programs, read_config

if TYPE_CHECKING:
    from ..chat.launcher import LauncherClient


# --- `breakglass launcher`: the launcher of chat as a unit of its own, started by a connection to its socket ---

MOST_LAUNCHERS = 8  # one for the handler, and those of handlers that have ended, until they have cleared away
_FIRST = 3  # sd_listen_fds(3)
_HINT = "let systemd start it, with the units in deploy/systemd; see breakglass docs runbook"


def launcher(arguments: argparse.Namespace) -> int:
    """Serve each handler that connects to systemd's socket, in a child, until this process is ended."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise CommandError("no socket was passed to the launcher", _HINT)
    if os.geteuid() != 0:
        raise CommandError("the launcher was not started as root", _HINT)
    os.umask(0o022)  # as `serve` has it: claude's user has to enter some directories of sessions.dir
    path = config_path()
    name = read_server_user(path)
    if not name:
        hint = f'write the handler\'s account into {path}: [server] user = "breakglass"; {MAKE_ONE}'
        raise CommandError("the launcher does not know whose handler it works for", hint)
    account = look_up(name)
    listener = socket.socket(fileno=_FIRST)
    is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if (listener.family, listener.type, is_listening) != (socket.AF_UNIX, socket.SOCK_SEQPACKET, 1):
        raise CommandError("the launcher was passed something other than its listening socket", _HINT)
    listener.setblocking(True)
    children: set[int] = set()
    while True:
        channel, _ = listener.accept()
        children = {pid for pid in children if os.waitpid(pid, os.WNOHANG)[0] == 0}
        if why := _find_refusal(channel, account, len(children)):
            audit.note_at_once("launcher-refused", why=why)
        elif (pid := os.fork()) == 0:
            listener.close()
            _serve_handler(channel, account, path)
            return DONE
        else:
            children.add(pid)
        channel.close()


def _find_refusal(channel: socket.socket, account: pwd.struct_passwd, others: int) -> str:
    """Return why a connection gets no launcher, or "". Each launcher has turns of its own, so their number counts."""
    from ..claude.launch_channel import sender_of

    if (uid := sender_of(channel)) != account.pw_uid:
        return f"a connection came from user {uid}"
    return f"there are {others} launchers already" if others >= MOST_LAUNCHERS else ""


def _serve_handler(channel: socket.socket, account: pwd.struct_passwd, path: Path) -> None:
    """Be the launcher of the handler at the other end of a connection, until that ends or this process is to end."""
    from ..claude.launch_channel import process_of
    from ..claude.launcher import run_launcher

    try:
        handler = process_of(channel)
    except OSError:  # it has ended again
        return

    def stop(number: int, frame: object) -> None:
        with contextlib.suppress(OSError):  # a child of the launcher has closed it
            channel.shutdown(socket.SHUT_RDWR)

    signal.signal(signal.SIGTERM, stop)  # systemd sends it to every process, so running turns end, and are cleared away
    ids = (account.pw_uid, account.pw_gid)
    run_launcher(channel, ids, lambda: load_config(path, os.environ), handler, (signal.SIGINT, signal.SIGHUP))


# --- `breakglass serve`: run the handler until it is told to stop ---

LAUNCHER_SECONDS = 3.0  # to remove the files of the last turns


def find_launcher(account: pwd.struct_passwd | None, path: Path) -> "LauncherClient | None":
    """Return what starts chat's turns as root: a process of another unit, or one that is started here.

    None for a handler without root, and if chat's modules can't be loaded, which chat reports.
    """
    try:
        from ..chat.launcher import LauncherClient
        from ..claude.launcher import start_launcher
    except Exception:  # a defect of chat's modules must not stop the verbs
        return None
    if unit := os.environ.get("BREAKGLASS_LAUNCHER"):
        return LauncherClient(None, unit)
    if account is None:
        return None
    ids = (account.pw_uid, account.pw_gid)
    return LauncherClient(start_launcher(ids, lambda: load_config(path, os.environ)))


def serve(arguments: argparse.Namespace) -> int:
    """Run the handler until it is told to stop."""
    os.umask(0o022)  # claude's user has to enter some directories of sessions.dir; private ones have their own mode
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until the server handles it
    prctl(PR_SET_DUMPABLE, 0)  # before a secret is in memory: other processes of this user can't read it
    leave_process_1()
    if sys.stdout is None:  # a file or a connection would get its descriptor, and the log
        raise CommandError("standard output is closed, and the log goes there", "redirect it, like >> breakglass.log")
    path, host, port = config_path(), os.environ.get("HOST", "127.0.0.1"), port_number(os.environ, "8080")
    load_server_modules()
    from ..server.server import make_server  # the other commands start without it

    account = find_account(path)
    name_this_user()
    launcher = find_launcher(account, path)  # before there are sockets, which it must not have
    config = load_as(account, path)
    server = make_server(config, lambda: read_config(path), host, port)
    if launcher is not None:
        server.on_adopt = lambda chatting: chatting.use_launcher(launcher)
    sockets = listen(host, port)
    give_up_privileges()
    signal.signal(signal.SIGTERM, _exit_quietly)
    log = audit.Writer()
    log.start()
    capture_prose()
    audit.note("start", address=f"{host}:{sockets[0].getsockname()[1]}", **config.summary)
    if missing := missing_programs(config):  # said here, and not in the first turn
        audit.note("programs-missing", programs=missing, hint=INSTALL_SSH)
    try:
        server.run(sockets)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a late reload must not end the process with an error
        log.stop()
        if launcher is not None:
            launcher.disconnect(LAUNCHER_SECONDS)
    return DONE


def _exit_quietly(sig: int, frame: object) -> None:
    """Exit with code 0: the server raises the signal that ended it once more."""
    sys.exit(DONE)
