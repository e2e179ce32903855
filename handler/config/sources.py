"""Reads the files of a configuration as they are at one moment, and checks who else could read them."""

import grp
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from shlex import quote

from ..base.findings import ConfigError, Finding, error, warning
from .entries import OWN_FILES, SUFFIX, OwnFiles, own_path
from .reader import CODES

# --- Who may read a file with a secret in it: the same rule as in OpenSSH and PostgreSQL ---

CREDENTIALS = "$CREDENTIALS_DIRECTORY/"  # the name of a file may begin with this name of systemd's directory
_REASONS: Mapping[type[Exception], str] = {
    FileNotFoundError: "there is no such file",
    IsADirectoryError: "it is a directory",
    UnicodeDecodeError: "it is not a text file",
}
_SHORTER_THAN_SECRETS = 24
_SECRET_PREFIX = 6  # so many characters are shown, because whsec_ hints at the mistake


def read_secret(setting: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the path of the file that a setting names, and its text. Raises ConfigError if the file can't be used."""
    shown = _shown_path(setting)
    try:
        path = find_file(setting, environment)
        with open(path, encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            if exposure := describe_exposure(Path(path), status, environment):
                sentence = f'is not safe: "{shown}": {exposure}'
                raise ConfigError([error(shown, "file-exposed", sentence, protect(path, status))])
            return path, file.read()
    except (OSError, ValueError) as fault:
        raise ConfigError([explain_unreadable(shown, fault, f': "{shown}"')]) from None


def explain_unreadable(file: str, fault: Exception, named: str = "") -> Finding:
    """Return why a file can't be read, and what to do. `named` puts its name into the sentence."""
    code = "file-missing" if isinstance(fault, FileNotFoundError) else "file-not-readable"
    why = _REASONS.get(type(fault)) or getattr(fault, "strerror", "") or str(fault)  # `str` of an OSError has the path
    by_whom = " by this user" if isinstance(fault, PermissionError) else ""
    sentence = f"can't be read{by_whom}{named}" + ("" if by_whom else f": {why}")
    return error(file, code, sentence, _make_readable(file, by_whom != "", code == "file-missing"))


def _make_readable(file: str, is_refused: bool, is_missing: bool) -> str:
    """Return how to make a file readable."""
    if file.startswith(CREDENTIALS):
        return "run doctor as root while the unit that has this file runs"
    if not file.startswith("/"):
        whole = os.path.abspath(os.path.expanduser(os.path.expandvars(file)))
        return f'write its whole path, without ~ and variables: "{whole}"'
    shown, group = quote(file), _group()
    if is_refused and (closed := _find_closed(file)):
        return f"let the handler's group enter that directory: chgrp {group} {closed}; chmod g+x {closed}"
    if is_refused:
        mode = 750 if os.path.isdir(file) else 640
        let_read = f"let root own it and its group read it: chown root:{group} {shown}; chmod {mode} {shown}"
        return f"if this is the handler's user, {let_read}; otherwise run doctor as root: sudo -E breakglass doctor"
    if is_missing:
        return f"see what is at that path: ls -l {quote(str(PurePath(file).parent))}"
    return f"see what is at that path: ls -ld {shown}"


def _find_closed(file: str) -> str:
    """Return the first directory above a file that this user may not enter, quoted, or an empty text."""
    for above in reversed(PurePath(file).parents):
        if os.path.isdir(above) and not os.access(above, os.X_OK):
            return quote(str(above))
    return ""


def _group() -> str:
    """Return the name of the group of this process."""
    try:
        return grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        return str(os.getegid())


def _shown_path(path: str) -> str:
    """Return a path, cut unless it is certainly a path, because people write the secret itself here."""
    is_path = len(path) <= _SHORTER_THAN_SECRETS or path.startswith(("/", "./", "../", CREDENTIALS))
    return path if is_path and "\n" not in path else f"{path[:_SECRET_PREFIX]}…"


def find_file(name: str, environment: Mapping[str, str]) -> str:
    """Return the path that a setting names. The prefix CREDENTIALS stands for systemd's credential directory.

    Raises ValueError if there is no such directory.
    """
    if not name.startswith(CREDENTIALS):
        return name
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise ValueError("CREDENTIALS_DIRECTORY is not set: only a systemd unit has it (see breakglass docs admin)")
    return os.path.join(directory, name.removeprefix(CREDENTIALS))


def describe_exposure(path: Path, status: os.stat_result, environment: Mapping[str, str]) -> str:
    """Return who else can read a secret file, or an empty text if only its owner can.

    Other users may never read it. A group may read it if root owns the file, or if it is a systemd credential. Pipes
    and devices are not checked. BREAKGLASS_INSECURE_CONFIG_MODE=1 disables this check.
    """
    if not stat.S_ISREG(status.st_mode) or environment.get("BREAKGLASS_INSECURE_CONFIG_MODE") == "1":
        return ""
    if status.st_mode & stat.S_IRWXO:
        return "every user of this machine can reach it"
    if status.st_mode & stat.S_IRWXG and not _is_credential(path, environment):
        if status.st_uid != 0:
            return "its group can reach it, and root does not own it"
        if status.st_mode & stat.S_IWGRP:
            return "its group can write it"
    return ""


def protect(file: str, status: os.stat_result) -> str:
    """Return the commands after which only the handler can read a file."""
    shown, user = quote(file), os.geteuid()
    if user in (0, status.st_uid):
        return f"chmod 600 {shown}"
    is_whole = status.st_uid == 0 and status.st_gid in (os.getegid(), *os.getgroups())
    return f"chmod 640 {shown}" if is_whole else f"chown root:{_group()} {shown}; chmod 640 {shown}"


def _is_credential(path: Path, environment: Mapping[str, str]) -> bool:
    directory = environment.get("CREDENTIALS_DIRECTORY")
    return bool(directory) and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(str(directory)))


# --- Read the configuration file and the own files beside it, all in the state of one moment ---
#
# An entry's own file is `callers.d/NAME.toml` or `vms.d/NAME.toml`. If such a file can't be used, only that entry has a
# fault. A directory that can't be read is a fault of the whole configuration, because its entries are not known then.

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
