"""`breakglass launcher`: the launcher of chat as a unit of its own, started by a connection to its socket."""

import argparse
import contextlib
import os
import pwd
import signal
import socket
from pathlib import Path

from .. import audit
from ..config.load import config_path, load_config, read_server_user
from .account import MAKE_ONE, look_up
from .errors import CommandError
from .output import DONE

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
