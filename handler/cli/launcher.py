"""`breakglass launcher`: the launcher of chat as a unit of its own, started by a connection to its socket."""

import argparse
import os
import socket

from ..config.load import config_path, load_config, read_server_user
from .account import MAKE_ONE, look_up
from .errors import CommandError
from .output import DONE

_FIRST = 3  # sd_listen_fds(3)
_HINT = "let systemd start it, with ListenSequentialPacket= and Accept=yes; see breakglass docs runbook"


def launcher(arguments: argparse.Namespace) -> int:
    """Serve the handler at the other end of a connection until the handler closes it."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise CommandError("no connection was passed to the launcher", _HINT)
    if os.geteuid() != 0:
        raise CommandError("the launcher was not started as root", _HINT)
    os.umask(0o022)  # as `serve` has it: claude's user has to enter some directories of sessions.dir
    path = config_path()
    name = read_server_user(path)
    if not name:
        hint = f'write the handler\'s account into {path}: [server] user = "breakglass"; {MAKE_ONE}'
        raise CommandError("the launcher does not know whose handler it works for", hint)
    account = look_up(name)
    channel = socket.socket(fileno=_FIRST)
    if (channel.family, channel.type) != (socket.AF_UNIX, socket.SOCK_SEQPACKET):
        raise CommandError("the launcher was passed something else than a connection to its socket", _HINT)
    from ..claude.launch_channel import process_of
    from ..claude.launcher import run_launcher

    try:
        handler = process_of(channel)
    except OSError:
        raise CommandError("the handler that has connected can't be found", _HINT) from None
    run_launcher(channel, (account.pw_uid, account.pw_gid), lambda: load_config(path, os.environ), handler)
    return DONE
