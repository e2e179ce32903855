"""Prepares `breakglass serve`: binds its address, loads its modules and its configuration."""

import errno
import gc
import importlib
import os
import pwd
import socket
from dataclasses import replace
from pathlib import Path

from ..base.findings import error
from ..config.load import load_config
from ..config.model import Config
from .account import become
from .output import CommandError, reason

# --- Bind the handler's address before anything else starts, so that an occupied port is the only error ---

BACKLOG = 2048


def listen(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets for each address of `host`; raise CommandError if one can't be bound."""
    if not host:  # getaddrinfo(3) would read an empty name as every address of this machine
        raise CommandError("HOST is empty", "set it to an address, or unset it; 0.0.0.0 and :: mean every address")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise CommandError(f'HOST "{host}" can\'t be resolved: {reason(error)}', "set it to an address") from None
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            opened = socket.create_server(address, family=family, backlog=BACKLOG)
            # Recreate the socket with its protocol, because only then does asyncio set TCP_NODELAY. Without that, each
            # answer would wait 40 ms for a delayed ACK.
            sockets.append(socket.socket(fileno=opened.detach()))
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise _explain(error, host, port) from None
    return sockets


def _explain(error: OSError, host: str, port: int) -> CommandError:
    at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return CommandError(f"another program listens on {at}", f"find the program: ss -ltnp 'sport = :{port}'")
    if error.errno == errno.EADDRNOTAVAIL:
        return CommandError(f'HOST is "{host}", which is not an address of this machine', "list them: ip address")
    if error.errno == errno.EACCES:
        return CommandError(f"this user may not listen on {at}", "set PORT to a number above 1023")
    return CommandError(f"can't listen on {at}: {reason(error)}", "check HOST and PORT")


# --- The steps of `serve` before it listens. `check` does the same steps and then exits, so both find the same
# problems.


def load_server_modules() -> None:
    """Load the modules that only a handler needs. Raises CommandError if one can't be loaded.

    The garbage collector ignores them, then and later, because they live until the end. They would take it a fifth of
    the start, and then a pause now and again.
    """
    gc.disable()
    try:
        importlib.import_module("..server.server", __package__)  # the import loads the SSH modules too
        from ..web.connection import check_uvicorn

        check_uvicorn()
    except Exception as error:  # after an incomplete upgrade, a library can raise any exception
        hint = "install Breakglass again, with its dependencies"
        raise CommandError(f"the handler can't start: {error!r}", hint) from None
    finally:
        gc.freeze()
        gc.enable()


def load_as(account: pwd.struct_passwd | None, path: Path) -> Config:
    """Change to the account, if given. Return the configuration as that account reads it."""
    from ..server.app import PAGE

    if account is not None:
        become(account)
    config = read_config(path)
    if not os.access(PAGE, os.R_OK | os.X_OK):
        hint = "install Breakglass where that user may read it, and not below /root"
        raise CommandError(f"the handler's user can't read the page in {PAGE}", hint)
    return config


def read_config(path: Path) -> Config:
    """Return a handler's configuration, at the start and at each reload; without metrics if they can't be loaded.

    Raises ConfigError as `load_config` does.
    """
    config = load_config(path, os.environ)
    if not config.metrics or not (fault := _import_exposition()):
        return config
    hint = "install Breakglass again, with its dependencies, where the handler's user may read it, and restart it"
    problem = error(
        "metrics", "metrics-setting", f"is disabled, because prometheus_client can't be loaded: {fault}", hint
    )
    return replace(config, metrics=(), problems=(*config.problems, problem))


def _import_exposition() -> str:
    """Load the modules for GET /metrics. Return why that failed, or an empty text."""
    try:
        importlib.import_module("..server.exposition", __package__)
    except Exception as error:  # a broken library can raise any exception, and verbs do not need this library
        return repr(error)
    return ""
