"""`breakglass serve`, and the reading of the configuration file that the other commands share."""

import argparse
import os
import shutil
import signal
import stat
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from .. import audit
from ..claude.processes import PR_SET_DUMPABLE, prctl
from ..config.load import parse
from ..config.model import Config
from ..errors import ConfigError, Problem
from .environment import port_number
from .errors import CommandError, reason
from .listen import listen
from .output import DONE, complain


def config_path() -> Path:
    """Return where the configuration is."""
    return Path(os.environ.get("BREAKGLASS_CONFIG", "breakglass.toml"))


def load_config(path: Path, environment: Mapping[str, str]) -> Config:
    """Return the usable part of the configuration file; raise ConfigError when that is too little."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError([_unreadable(path, error)]) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and environment.get("BREAKGLASS_INSECURE_CONFIG_MODE") != "1":
        raise ConfigError([Problem(str(path), "can be read by others than its owner", f"chmod 600 {path}")])
    files = [str(path)]

    def read(name: str) -> str:
        files.append(name)
        return Path(name).read_text(encoding="utf-8")

    return replace(parse(text, read), files=tuple(files))


def _unreadable(path: Path, error: Exception) -> Problem:
    """Return why the configuration file can't be read, and what to do."""
    if isinstance(error, FileNotFoundError):
        return Problem(str(path), "there is no such file", "write it, or set BREAKGLASS_CONFIG to where it is")
    if isinstance(error, IsADirectoryError):
        return Problem(str(path), "is a directory", "set BREAKGLASS_CONFIG to the file in it")
    if isinstance(error, PermissionError):
        return Problem(str(path), "can't be read by this user", "run this as its owner; the handler's user must own it")
    if isinstance(error, UnicodeDecodeError):
        return Problem(str(path), "is not a text file", "set BREAKGLASS_CONFIG to the TOML file")
    why = reason(error) if isinstance(error, OSError) else str(error)
    return Problem(str(path), f"can't be read: {why}", "check BREAKGLASS_CONFIG")


def _warn_of_missing_programs(config: Config) -> None:
    """Say at the start, and not in the first turn, that claude's way to the host is missing."""
    needed = ("ssh", "ssh-agent", "ssh-add") if config.chat and any(vm.agent_key for vm in config.vms.values()) else ()
    missing = [name for name in needed if shutil.which(name) is None]
    if missing:
        complain(f"chat needs {', '.join(missing)}, which is not installed", "install openssh-client; the rest works")


def serve(arguments: argparse.Namespace) -> int:
    """Run the handler until it is told to stop."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # it waits until the server can hear it
    prctl(PR_SET_DUMPABLE, 0)  # before there is a secret in memory: nobody else of our user reads it there
    path, host, port = config_path(), os.environ.get("HOST", "127.0.0.1"), port_number(os.environ, "8080")
    config = load_config(path, os.environ)
    if config.problems:
        complain("the configuration has faults; what they concern is off\n" + "\n".join(map(str, config.problems)))
    _warn_of_missing_programs(config)
    try:
        from ..web.server import make_server  # the other commands start without a server
    except Exception as error:  # half an upgrade can make a library raise anything
        hint = "install Breakglass again, with its dependencies"
        raise CommandError(f"the handler can't start: {error!r}", hint) from None
    server = make_server(config, lambda: load_config(path, os.environ), host, port)
    sockets = listen(host, port)
    signal.signal(signal.SIGTERM, _exit_quietly)
    log = audit.Writer()
    log.start()
    audit.note("start", address=f"{host}:{sockets[0].getsockname()[1]}", **audit.in_force(config))
    try:
        server.run(sockets)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload that comes too late is no reason to die of it
        log.stop()
    return DONE


def _exit_quietly(sig: int, frame: object) -> None:
    """End by way of the `finally` clauses: the server, once it has ended, raises again the signal that ended it."""
    sys.exit(DONE)
