"""`breakglass serve`: run the handler until it is told to stop."""

import argparse
import os
import pwd
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .. import audit
from ..claude.processes import PR_SET_DUMPABLE, prctl
from ..config.load import config_path, load_config
from .account import find_account, give_up_privileges, name_this_user
from .environment import port_number
from .errors import CommandError
from .listen import listen
from .output import DONE
from .process_1 import leave_process_1
from .prose import capture_prose
from .starting import INSTALL_SSH, load_as, load_server_modules, missing_programs, read_config

if TYPE_CHECKING:
    from ..chat.launcher import LauncherClient

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
    from ..web.server import make_server  # the other commands start without it

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
