"""`breakglass serve`: runs the handler until it is told to stop."""

import argparse
import os
import signal
import sys

from ..base import audit
from ..config.load import config_path
from .account import PR_SET_DUMPABLE, give_up_privileges, name_this_user, prctl
from .environment import port_number
from .output import DONE, CommandError
from .process import capture_prose, leave_process_1
from .starting import listen, load_as, load_server_modules, read_config

_ROOT = "the handler was started as root, and must not be root"
_NOT_ROOT = "start it as its own user: setpriv --reuid breakglass --regid breakglass --clear-groups breakglass serve"


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Describe `serve`."""
    parser.set_defaults(run=serve)


def serve(arguments: argparse.Namespace) -> int:
    """Run the handler until it is told to stop."""
    if os.geteuid() == 0:
        raise CommandError(_ROOT, _NOT_ROOT)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until the server handles the signal
    prctl(PR_SET_DUMPABLE, 0)  # before a secret is in memory, so that other processes of this user can't read it
    leave_process_1()
    if sys.stdout is None:  # otherwise the next file or connection would get descriptor 1, and with it the log
        raise CommandError(
            "standard output is closed, but the log is written there", "redirect it, like >> breakglass.log"
        )
    path, host, port = config_path(), os.environ.get("HOST", "127.0.0.1"), port_number(os.environ, "8080")
    load_server_modules()
    from ..server.server import make_server  # imported here, so that the other commands start without it

    name_this_user()
    config = load_as(None, path)
    server = make_server(config, lambda: read_config(path), host, port)
    sockets = listen(host, port)
    give_up_privileges()
    signal.signal(signal.SIGTERM, _exit_quietly)
    log = audit.Writer()
    log.start()
    capture_prose()
    audit.note("start", address=f"{host}:{sockets[0].getsockname()[1]}", **config.summary)
    try:
        server.run(sockets)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a late reload signal must not end the process with an error
        log.stop()
    return DONE


def _exit_quietly(sig: int, frame: object) -> None:
    """Exit with code 0. Called because the server raises the signal that stopped it again."""
    sys.exit(DONE)
