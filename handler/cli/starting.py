"""What `serve` does before it listens. `check` does the same and ends there, so that both find the same problems."""

import importlib
import os
import pwd
import shutil
from dataclasses import replace
from pathlib import Path

from ..config.load import load_config
from ..config.model import Config
from ..findings import error
from .account import become
from .errors import CommandError

INSTALL_SSH = "install openssh-client; the verbs work without it"


def load_server_modules() -> None:
    """Load what only a handler needs. Raises CommandError if a part of the installation can't be used."""
    try:
        importlib.import_module("..web.server", __package__)  # the SSH side comes with it
        from ..web.connection import check_uvicorn
        from ..web.late_modules import load_late_modules

        load_late_modules()
        check_uvicorn()
    except Exception as error:  # after half an upgrade a library can raise any exception
        hint = "install Breakglass again, with its dependencies"
        raise CommandError(f"the handler can't start: {error!r}", hint) from None


def load_as(account: pwd.struct_passwd | None, path: Path) -> Config:
    """Become the account, if there is one, and return the configuration as it reads it, now and at each reload."""
    from ..web.app import PAGE

    if account is not None:
        _import_exposition()  # the account may be unable to read the library, and a reload may bring [metrics]
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
    """Load what answers GET /metrics; return why that can't be done, an empty text if it is done."""
    try:
        importlib.import_module("..web.exposition", __package__)
    except Exception as error:  # a library that is broken can raise any exception, and verbs do not need it
        return repr(error)
    return ""


def missing_programs(config: Config) -> list[str]:
    """Return the programs that chat needs and that are not installed: without them, claude can't reach the host."""
    has_key = any(host.read_only_key for host in config.hosts.values())
    return [name for name in ("ssh",) if config.chat and has_key and shutil.which(name) is None]
