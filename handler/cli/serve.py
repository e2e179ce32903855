"""`breakglass serve`, and the reading of the configuration file that the other commands share."""

import argparse
import os
import signal
import stat
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..claude.processes import PR_SET_DUMPABLE, prctl
from ..config.load import parse
from ..config.model import Config
from ..errors import ConfigError, Problem
from .output import DONE, USAGE, complain


def config_path() -> Path:
    """Return where the configuration is."""
    return Path(os.environ.get("BREAKGLASS_CONFIG", "breakglass.toml"))


def load_config(path: Path, environment: Mapping[str, str]) -> Config:
    """Return the usable part of the configuration file; raise ConfigError when that is too little."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError([Problem(str(path), f"can't be read: {error}", "name it in BREAKGLASS_CONFIG")]) from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO) and environment.get("BREAKGLASS_INSECURE_CONFIG_MODE") != "1":
        raise ConfigError([Problem(str(path), "can be read by others than its owner", f"chmod 600 {path}")])
    files = [str(path)]

    def read(name: str) -> str:
        files.append(name)
        return Path(name).read_text(encoding="utf-8")

    return replace(parse(text, read), files=tuple(files))


def serve(arguments: argparse.Namespace) -> int:
    """Run the handler until it is told to stop."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # it waits until the server can hear it
    prctl(PR_SET_DUMPABLE, 0)  # before there is a secret in memory: nobody else of our user reads it there
    path = config_path()
    host, port = os.environ.get("HOST", "127.0.0.1"), os.environ.get("PORT", "8080")
    try:
        config = load_config(path, os.environ)
    except ConfigError as error:
        complain(f"the configuration can't be used\n{error}")
        return USAGE
    if config.problems:
        complain("the configuration has faults; what they concern is off\n" + "\n".join(map(str, config.problems)))
    if not port.isdigit():
        complain(f'PORT is not a number: "{port}"')
        return USAGE
    from .. import audit  # the other commands start without a server
    from ..web.server import make_server

    signal.signal(signal.SIGTERM, _exit_quietly)
    log = audit.Writer()
    log.start()
    audit.note("start", address=f"{host}:{port}", **audit.in_force(config))
    try:
        make_server(config, lambda: load_config(path, os.environ), host, int(port)).run()
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload that comes too late is no reason to die of it
        log.stop()
    return DONE


def _exit_quietly(sig: int, frame: object) -> None:
    """End by way of the `finally` clauses: the server, once it has ended, raises again the signal that ended it."""
    sys.exit(DONE)
