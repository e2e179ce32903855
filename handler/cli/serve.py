"""`breakglass serve`: run the handler until it is told to stop."""

import argparse
import os
import pwd
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .. import audit
from ..claude.processes import PR_SET_DUMPABLE, prctl
from ..config.load import config_path, load_config
from ..config.model import Config
from .account import become, find_account, give_up_privileges
from .environment import port_number
from .errors import CommandError
from .listen import listen
from .output import DONE
from .prose import capture_prose

if TYPE_CHECKING:
    from ..chat.launcher import LauncherClient

LAUNCHER_SECONDS = 3.0  # to remove the files of the last turns


def _note_missing_programs(config: Config) -> None:
    """Say at the start, not in the first turn, that claude can't reach the host."""
    has_key = any(host.read_only_key for host in config.hosts.values())
    needed = ("ssh",) if config.chat and has_key else ()
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        hint = "install openssh-client; the verbs work without it"
        audit.note("programs-missing", programs=missing, hint=hint)


def _find_launcher(account: pwd.struct_passwd | None, path: Path) -> "LauncherClient | None":
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
    if sys.stdout is None:  # a file or a connection would get its descriptor, and the log
        raise CommandError("standard output is closed, and the log goes there", "redirect it, like >> breakglass.log")
    path, host, port = config_path(), os.environ.get("HOST", "127.0.0.1"), port_number(os.environ, "8080")
    try:
        from ..web.app import PAGE  # the other commands start without a server
        from ..web.late_modules import load_late_modules
        from ..web.server import make_server

        load_late_modules()
    except Exception as error:  # after half an upgrade a library can raise any exception
        hint = "install Breakglass again, with its dependencies"
        raise CommandError(f"the handler can't start: {error!r}", hint) from None
    account = find_account(path)
    launcher = _find_launcher(account, path)  # before there are sockets, which it must not have
    if account is not None:
        become(account)
    config = load_config(path, os.environ)  # as the user who has to read it at each reload
    if not os.access(PAGE, os.R_OK | os.X_OK):
        hint = "install Breakglass where that user may read it, and not below /root"
        raise CommandError(f"the handler's user can't read the page in {PAGE}", hint)
    server = make_server(config, lambda: load_config(path, os.environ), host, port)
    if launcher is not None:
        server.on_adopt = lambda service: service.chatting.use_launcher(launcher)
    sockets = listen(host, port)
    give_up_privileges()
    signal.signal(signal.SIGTERM, _exit_quietly)
    log = audit.Writer()
    log.start()
    capture_prose()
    audit.note("start", address=f"{host}:{sockets[0].getsockname()[1]}", **config.summary)
    _note_missing_programs(config)
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
