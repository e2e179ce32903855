"""`breakglass serve`: run the handler until it is told to stop."""

import argparse
import os
import shutil
import signal
import sys

from .. import audit
from ..claude.processes import PR_SET_DUMPABLE, prctl
from ..config.load import config_path, load_config
from ..config.model import Config
from .environment import port_number
from .errors import CommandError
from .listen import listen
from .output import DONE, complain


def _warn_of_missing_programs(config: Config) -> None:
    """Warn at the start, not in the first turn, that claude can't reach the host."""
    has_key = any(host.read_only_key for host in config.hosts.values())
    needed = ("ssh",) if config.chat and has_key else ()
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        complain(
            f"chat needs programs that are not installed: {', '.join(missing)}",
            "install openssh-client; the verbs work without it",
        )


def serve(arguments: argparse.Namespace) -> int:
    """Run the handler until it is told to stop."""
    os.umask(0o022)  # claude's user has to enter some directories of sessions.dir; private ones have their own mode
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until the server handles it
    prctl(PR_SET_DUMPABLE, 0)  # before a secret is in memory: other processes of this user can't read it
    if sys.stdout is None:  # a file or a connection would get its descriptor, and the log
        raise CommandError("standard output is closed, and the log goes there", "redirect it, like >> breakglass.log")
    path, host, port = config_path(), os.environ.get("HOST", "127.0.0.1"), port_number(os.environ, "8080")
    try:
        from ..web.server import make_server  # the other commands start without a server
    except Exception as error:  # after half an upgrade a library can raise any exception
        hint = "install Breakglass again, with its dependencies"
        raise CommandError(f"the handler can't start: {error!r}", hint) from None
    config = load_config(path, os.environ)
    if config.problems:
        complain(
            "the configuration has faults; each entry with a fault is off\n" + "\n".join(map(str, config.problems))
        )
    _warn_of_missing_programs(config)
    server = make_server(config, lambda: load_config(path, os.environ), host, port)
    sockets = listen(host, port)
    signal.signal(signal.SIGTERM, _exit_quietly)
    log = audit.Writer()
    log.start()
    audit.note("start", address=f"{host}:{sockets[0].getsockname()[1]}", **config.summary)
    try:
        server.run(sockets)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a late reload must not end the process with an error
        log.stop()
    return DONE


def _exit_quietly(sig: int, frame: object) -> None:
    """Exit with code 0: the server raises the signal that ended it once more."""
    sys.exit(DONE)
