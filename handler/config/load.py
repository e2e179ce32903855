"""The TOML file, to frozen dataclasses. Every problem is reported at once, each with its key's path and a hint.

Any fault in an entry switches that caller, VM or alert off, whole: half an entry could mean more than its author wrote.
The rest works on. What no rescue can do without (a caller, a VM, a session secret) is a ConfigError; what a later part
needs is checked where that part lives. Pure but for reading the files that the TOML names, through `read`.
"""

import os
import stat
import tomllib
from collections.abc import Iterable, Mapping, Sized
from dataclasses import replace
from pathlib import Path

from ..auth.signing import SIGNATURE
from .alerts import read_rules
from .callers import read_callers
from .chat import read_chat
from .model import Config
from .problems import ConfigError, Problem
from .reader import Read, Tables
from .vms import read_vm, vmid_in

_SESSION_SECRET_BYTES = 32


def parse(text: str, read: Read) -> Config:
    """Return the usable part of what `text` spells, with every problem there is; raise ConfigError, also with every
    problem, when that is too little for a rescue."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib lets those of a huge number and of deep nesting through
        raise ConfigError([Problem("(file)", f"is not TOML: {error}", "check its quotes and brackets")]) from None
    return _config(Tables(data, read))


def _config(tables: Tables) -> Config:
    tables.unknown("", tables.data, ("callers", "vms", "sessions", "chat", "alerts"))
    entries = tables.get_tables("vms")
    vms = {name: vm for name, table in entries.items() if (vm := read_vm(tables, name, table))}
    callers = read_callers(tables, entries)
    alerts = read_rules(tables, vms, entries)
    secrets, directory = _sessions(tables)
    chat = read_chat(tables, directory)
    signing = [caller for caller in callers if caller.auth_method == SIGNATURE]
    _require(
        tables, "callers", signing, "no caller can sign requests", "fix one, or make one: breakglass keys new NAME"
    )
    _require(tables, "vms", vms, "has none that can be used", "mend one: docs/protocol.md, section 1")
    if not (signing and vms and secrets):
        raise ConfigError(tables.problems)
    off = {name: vmid_in(table) for name, table in entries.items() if name not in vms}
    return Config(callers, vms, secrets, directory, off, tuple(tables.problems), alerts, chat)


def _require(tables: Tables, path: str, usable: Sized, message: str, hint: str) -> None:
    """Say what is missing where no other problem says it of the whole table."""
    if not usable and not any(problem.path == path for problem in tables.problems):
        tables.problem(path, message, hint)


def _sessions(tables: Tables) -> tuple[tuple[str, ...], str]:
    table = tables.get_table("sessions")
    tables.unknown("sessions", table, ("secret", "secret_file", "dir"))
    secrets = _long_enough(tables, "sessions.secret", tables.secrets("sessions", table, "secret"))
    return secrets, tables.get_str("sessions", table, "dir", "var/sessions")


def _long_enough(tables: Tables, path: str, secrets: Iterable[str]) -> tuple[str, ...]:
    """Return the secrets that are long enough; the others are a problem and not used."""
    strong = tuple(secret for secret in secrets if len(secret.encode()) >= _SESSION_SECRET_BYTES)
    if set(strong) != set(secrets):
        tables.problem(path, f"is shorter than {_SESSION_SECRET_BYTES} bytes", "make one: openssl rand -base64 48")
    return strong


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
    why = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return Problem(str(path), f"can't be read: {why}", "check BREAKGLASS_CONFIG")
