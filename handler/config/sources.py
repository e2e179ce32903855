"""Reads the configuration file and the own files beside it, all in the state of one moment.

An entry's own file is `callers.d/NAME.toml` or `vms.d/NAME.toml`. If such a file can't be used, only that entry has a
fault. A directory that can't be read is a fault of the whole configuration, because its entries are not known then.
"""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..base.findings import ConfigError, Finding, error, warning
from .entries import OWN_FILES, SUFFIX, OwnFiles, own_path
from .reader import CODES
from .secret_files import describe_exposure, explain_unreadable, protect

_TRIES = 3
_IGNORED = {"callers": "caller-file-ignored", "vms": "vm-file-ignored"}


@dataclass(frozen=True)
class Sources:
    """The texts that were read: the configuration, and the own files.

    `directories` has the tables that have a directory. `warnings` are about ignored names in it.
    """

    path: Path
    text: str
    status: os.stat_result
    directories: tuple[str, ...]
    own: OwnFiles
    warnings: tuple[Finding, ...] = ()


def own_file(config: Path, table: str, name: str) -> Path:
    """Return the path of an entry's own file."""
    return config.parent / own_path(table, name)


def read_sources(path: Path, environment: Mapping[str, str]) -> Sources:
    """Read all files. Raises ConfigError, for example if the files keep changing."""
    places = {table: path.parent / f"{table}.d" for table in OWN_FILES}
    for _ in range(_TRIES):
        names = {table: _list_names(place) for table, place in places.items()}
        before = _fingerprint(path, places, names)
        text, status = read_file(path)
        own: dict[str, dict[str, str | Finding]] = {table: {} for table in places}
        warnings: list[Finding] = []
        for table, file in _own_files(places, names):
            if why := _find_ignored(file):
                place = f"{table}.d/{file.name}"
                warnings.append(warning(place, _IGNORED[table], f"{place} is ignored: {why}", "rename it"))
            else:
                own[table][file.name.removesuffix(SUFFIX)] = _read_own(table, file, environment)
        if before == _fingerprint(path, places, {table: _list_names(place) for table, place in places.items()}):
            directories = tuple(table for table, found in names.items() if found is not None)
            return Sources(path, text, status, directories, own, tuple(warnings))
    message = "changed while it was read, or a file beside it changed, so it is not used"
    fix = "wait until the change is complete, then reload (SIGHUP)"
    raise ConfigError([error(str(path), "config-file", message, fix)])


_Names = Mapping[str, list[str] | None]  # of each table's directory; None if there is no directory


def _own_files(places: Mapping[str, Path], names: _Names) -> list[tuple[str, Path]]:
    """Return each file in the directories, with its table."""
    return [(table, place / name) for table, place in places.items() for name in names[table] or ()]


def _list_names(directory: Path) -> list[str] | None:
    """Return the names in a directory of own files, None if there is no directory. Raises ConfigError.

    A dangling link counts as an unreadable directory, because its volume may be missing.
    """
    try:
        names = os.listdir(f"{directory}/.")  # "/." makes this fail if the names can be read but the files can't
    except OSError as fault:
        if isinstance(fault, FileNotFoundError) and not os.path.lexists(directory):
            return None
        found = explain_unreadable(str(directory.absolute()), fault)
        fix = f"no reload changes anything before this is fixed, so no caller is revoked either; {found.fix}"
        raise ConfigError([replace(found, fix=fix)]) from None
    # names with two dots are Kubernetes' own, in a volume
    return sorted(name for name in names if not name.startswith(".."))


def _fingerprint(path: Path, places: Mapping[str, Path], names: _Names) -> object:
    """Return a value that changes if a file is added, removed, replaced or written."""
    return _identity(path), names, [_identity(file) for _, file in _own_files(places, names)]


def _identity(file: Path) -> tuple[int, ...]:
    try:
        found = file.stat()
    except OSError:
        return ()
    if not stat.S_ISREG(found.st_mode):  # the times of a pipe change when it is read
        return (found.st_dev, found.st_ino)
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _find_ignored(file: Path) -> str:
    """Return why a file in the directory is no entry's own file; an empty text if it is one."""
    if file.name.startswith("."):
        return "its name begins with a dot"
    if not file.name.endswith(SUFFIX):
        return f"its name does not end in {SUFFIX}"
    is_inside = Path(os.path.realpath(file)).is_relative_to(os.path.realpath(file.parent))
    return "" if is_inside else "it is a link to a file outside of the directory"


def _read_own(table: str, file: Path, environment: Mapping[str, str]) -> str | Finding:
    try:
        with open(file, "rb", opener=_open_at_once) as opened:
            status = os.fstat(opened.fileno())
            if not stat.S_ISREG(status.st_mode):
                fix = f"see what kind of file it is: ls -l {file}"
                return error(str(file), CODES[table], "is not a regular file", fix)
            if exposure := describe_exposure(file, status, environment):
                fix = protect(str(file), status)
                return error(str(file), "file-exposed", f"is not safe: {exposure}", fix)
            return opened.read().decode("utf-8-sig")
    except (OSError, ValueError) as fault:
        return explain_unreadable(str(file.absolute()), fault)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe may never get a writer


def read_file(path: Path) -> tuple[str, os.stat_result]:
    """Return the text and the status of the configuration file. Raises ConfigError."""
    try:
        status = path.stat()
        return path.read_text(encoding="utf-8-sig"), status
    except (OSError, ValueError) as fault:
        found = explain_unreadable(str(path.absolute()), fault)
        if not isinstance(fault, PermissionError):
            found = replace(found, fix="set BREAKGLASS_CONFIG to the TOML file that breakglass init made")
        raise ConfigError([replace(found, place=str(path))]) from None
