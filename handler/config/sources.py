"""Reads the configuration file and the files of callers beside it, all of them as they are at one moment.

A caller's own file is `callers.d/NAME.toml`. A file that can't be used is a fault of that caller alone. A directory
that can't be read is a fault of the whole configuration, because nothing then tells which callers are in it.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..findings import ConfigError, Finding, error, warning
from .callers import DIRECTORY, SUFFIX
from .secret_files import describe_exposure, explain_unreadable, protect

_TRIES = 3


@dataclass(frozen=True)
class Sources:
    """What was read: the configuration's text, and the text of each caller's own file by the caller's name.

    For a caller's file that can't be used, there is a problem in place of the text. `warnings` are about names in the
    directory that are ignored.
    """

    path: Path
    text: str
    status: os.stat_result
    has_directory: bool
    callers: Mapping[str, str | Finding]
    warnings: tuple[Finding, ...] = ()


def caller_file(config: Path, name: str) -> Path:
    """Return the path of a caller's own file."""
    return config.parent / DIRECTORY / f"{name}{SUFFIX}"


def read_sources(path: Path, environment: Mapping[str, str]) -> Sources:
    """Read all files. Raises ConfigError, also if the files keep changing while they are read."""
    directory = path.parent / DIRECTORY
    for _ in range(_TRIES):
        names = _list_names(directory)
        before = _fingerprint(path, directory, names)
        text, status = read_file(path)
        ignored = {name: why for name in names or () if (why := _find_ignored(directory, name))}
        files = [directory / name for name in names or () if name not in ignored]
        callers = {file.name.removesuffix(SUFFIX): _read_caller(file, environment) for file in files}
        if before == _fingerprint(path, directory, _list_names(directory)):
            warnings = tuple(_warn_of_ignored(name, why) for name, why in ignored.items())
            return Sources(path, text, status, names is not None, callers, warnings)
    message = "changed while it was read, or the configuration did, so nothing of it is used"
    fix = "wait until that has ended, then reload (SIGHUP)"
    raise ConfigError([error(str(directory), "config-file", message, fix)])


def _list_names(directory: Path) -> list[str] | None:
    """Return the names in the directory of callers, None if there is none. Raises ConfigError.

    A link to nowhere is a directory that can't be read: its volume may be missing.
    """
    try:
        names = os.listdir(f"{directory}/.")  # fails also where the names could be read, and no file
    except OSError as fault:
        if isinstance(fault, FileNotFoundError) and not os.path.lexists(directory):
            return None
        found = explain_unreadable(str(directory.absolute()), fault)
        fix = f"until then a reload changes nothing, and no caller either: {found.fix}"
        raise ConfigError([replace(found, fix=fix)]) from None
    return sorted(name for name in names if not name.startswith(".."))  # such are Kubernetes' own, in a volume


def _fingerprint(path: Path, directory: Path, names: list[str] | None) -> object:
    """Return what is another value once a file was added, removed, replaced or written."""
    return _identity(path), names, [_identity(directory / name) for name in names or ()]


def _identity(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    if not stat.S_ISREG(found.st_mode):  # a pipe's times change when it is read
        return (found.st_dev, found.st_ino)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _find_ignored(directory: Path, name: str) -> str:
    """Return why a name is not a caller's file; an empty text if it is one."""
    if name.startswith("."):
        return "its name begins with a dot"
    if not name.endswith(SUFFIX):
        return f"its name does not end in {SUFFIX}"
    is_inside = Path(os.path.realpath(directory / name)).is_relative_to(os.path.realpath(directory))
    return "" if is_inside else "it is a link to a file outside of the directory"


def _warn_of_ignored(name: str, why: str) -> Finding:
    place = f"{DIRECTORY}/{name}"
    return warning(place, "caller-file-ignored", f"{place} is ignored: {why}", "rename it, or remove it")


def _read_caller(file: Path, environment: Mapping[str, str]) -> str | Finding:
    try:
        with open(file, "rb", opener=_open_at_once) as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                return error(str(file), "caller-disabled", "is not a regular file", f"see what it is: ls -l {file}")
            if exposure := describe_exposure(file, status, environment):
                fix = protect(str(file), status)
                return error(str(file), "file-exposed", f"is not safe: {exposure}", fix)
            return opened.read().decode("utf-8-sig")
    except (OSError, ValueError) as fault:
        return explain_unreadable(str(file.absolute()), fault)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe's writer may never come


def read_file(path: Path) -> tuple[str, os.stat_result]:
    """Return the text and the status of the configuration file. Raises ConfigError."""
    try:
        status = path.stat()
        return path.read_text(encoding="utf-8-sig"), status
    except (OSError, ValueError) as fault:
        found = explain_unreadable(str(path.absolute()), fault)
        if not isinstance(fault, PermissionError):
            found = replace(found, fix="run breakglass init to make one, or set BREAKGLASS_CONFIG to the TOML file")
        raise ConfigError([replace(found, place=str(path))]) from None
