"""Reads a file with a secret, and checks who else could read it, by the rule of OpenSSH and PostgreSQL.

An error says why a file can't be read or is not safe, and which commands fix that.
"""

import grp
import os
import stat
from collections.abc import Mapping
from pathlib import Path, PurePath
from shlex import quote

from ..base.findings import ConfigError, Finding, error

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
