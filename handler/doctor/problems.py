"""The problems of a configuration as findings: which place has them, their code, and what mends them."""

import grp
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from shlex import quote as _quote

from ..config.problems import Problem
from ..config.reader import CREDENTIALS
from ..verbs import VERBS
from .findings import Finding, error

CONFIGURATION, KEYS, CHAT, ALERTS = "configuration", "keys", "chat", "alerts"

_KEYS = re.compile(
    r"hosts\..+\.(read_only_)?key(_file)?|sessions\.secret(_file)?"
    r"|callers\.(.+\.|d/.+: )(secret|grafana_secret|token)(_file)?"
)
# The first pattern that a problem's message has decides.
_BY_MESSAGE: Mapping[str, str] = {
    r"is not a setting": "unknown-setting",
    r"is not safe": "file-exposed",
    r"can't be read by this user": "file-not-readable",
    r"there is no such file|No such file": "file-missing",
    r"can't be read|is a directory|is not a text file": "file-not-readable",
    r"is empty: ": "file-empty",
    r"is also the secret of": "secret-shared",
    r"is a public key": "key-public",
    r"is an encrypted key": "key-encrypted",
    r"is not a private key": "key-garbage",
    r"is the power key": "key-is-power-key",
    r"can't be used by OpenSSH": "key-unsupported",
    r"is shorter than|bytes; 24 to 64|does not begin with whsec_|is not base64|is not bgt_": "secret-weak",
    r"credential_file": "credential",
}
_BY_TABLE = {"callers": "caller-disabled", "hosts": "host-disabled", "vms": "vm-disabled", "sessions": "session-secret"}
_BY_TABLE |= {"server": "server-setting", "alerts": "alert-disabled", "chat": "chat-setting"}
_BY_TABLE |= {"metrics": "metrics-setting"}
_FILE = re.compile(r'"([^"]+)"')
_OF_FILES = ("file-missing", "file-not-readable")


def place_of(problem: Problem) -> str:
    """Return the place that a problem belongs to."""
    if _KEYS.fullmatch(problem.path):
        return KEYS
    table = re.split(r"[.\[]", problem.path, maxsplit=1)[0]
    return table if table in (CHAT, ALERTS) else CONFIGURATION


def code_of(problem: Problem) -> str:
    """Return the code of a problem's finding."""
    if problem.path == "(start)":
        return "no-start"
    for pattern, code in _BY_MESSAGE.items():
        if re.search(pattern, f"{problem.path} {problem.message}"):
            return code
    table = re.split(r"[.\[]", problem.path, maxsplit=1)[0]
    return _BY_TABLE.get(table, "config-file" if table.startswith(("(", "/")) else "setting")


def find_problems_of(place: str, problems: Iterable[Problem]) -> list[Finding]:
    """Return the findings for the problems of one place."""
    return [_finding(place, problem) for problem in problems if place_of(problem) == place]


def _finding(place: str, problem: Problem) -> Finding:
    code = code_of(problem)
    colon = ":" * problem.path.startswith(("/", "("))  # a file, and not the subject of a sentence
    return error(place, code, f"{problem.path}{colon} {problem.message}", _fix(problem, code))


def _fix(problem: Problem, code: str) -> str:
    """Return the problem's hint, with the file's name in it, or a better one where the file is known."""
    match = _FILE.search(problem.message)
    file = match[1] if match else problem.path if problem.path.startswith("/") else ""
    if file.startswith(CREDENTIALS):
        return f"run doctor as root, while the unit runs that has them; or name a file in {problem.path}"
    if match and not file.startswith("/") and code in _OF_FILES:
        whole = os.path.abspath(os.path.expanduser(os.path.expandvars(file)))
        return f'write its whole path, without ~ and variables: {problem.path} = "{whole}"'
    if code in _OF_FILES and (closed := _find_closed(file)):
        return f"let the handler's group enter that directory: chgrp {_group()} {closed}; chmod g+x {closed}"
    shown = _quote(file)
    if code == "file-missing" and match:
        return f"put the file there, or correct {problem.path}; to see what is there: ls -l {_quote(_parent(file))}"
    if code == "file-not-readable" and "by this user" in problem.message and file and not os.path.isdir(file):
        let_read = f"let root own it and its group read it: chown root:{_group()} {shown}; chmod 640 {shown}"
        return f"if this is the handler's user, {let_read}; otherwise run doctor as root: sudo -E breakglass doctor"
    if code == "file-exposed" and file:
        return _protect(file, problem.hint)
    if code == "file-not-readable" and match:
        return f"see what is there, and correct {problem.path}: ls -ld {shown}"
    if code == "key-encrypted" and match:
        return f"remove its passphrase: ssh-keygen -p -N '' -f {shown}"
    if code == "key-public" and match and not file.endswith(".pub"):
        return f"put the private key into {shown}: it begins with -----BEGIN OPENSSH PRIVATE KEY-----"
    if code == "key-public" and match:
        if not file.endswith(".pub"):
            return f"put the private key into {shown}, which begins with -----BEGIN, in the place of the public one"
        return f'name the private key, the file without .pub: {problem.path} = "{file.removesuffix(".pub")}"'
    if code == "key-garbage":
        into = shown if match else "FILE"
        return (
            f"put the private key back, or move that file away and make a pair: ssh-keygen -t ed25519 -N '' -f {into}; "
            "then run breakglass host install-commands, and on the host what it prints"
        )
    if code == "key-is-power-key":
        return "make claude a key of its own: ssh-keygen -t ed25519 -N '' -f pve_read; see breakglass docs runbook"
    return _name(problem)


def _name(problem: Problem) -> str:
    """Return the problem's hint, as a command where it is none, and with the caller's name."""
    if problem.path.startswith("sessions.secret") and problem.message == "is missing":
        return 'openssl rand -base64 48, and write what it prints: [sessions] secret = "…", or its file: secret_file'
    if (problem.path, problem.message) == ("callers", "is empty"):
        return f"breakglass keys new NAME --allow {','.join(VERBS)}"
    if match := re.fullmatch(r"callers\.(?:d/(.+)\.toml: |([^/]+)\.)[a-z_]+", problem.path):
        return problem.hint.replace("keys new NAME", f"keys new {match[1] or match[2]}")
    return problem.hint


def _protect(file: str, hint: str) -> str:
    """Return the commands after which the handler alone can read a file, and other users can't."""
    try:
        status = os.stat(file)
    except OSError:
        return hint
    shown = _quote(file)
    if status.st_uid == os.geteuid():
        return f"chmod 600 {shown}"
    groups = {os.getegid(), *os.getgroups()}
    is_whole = status.st_uid == 0 and status.st_gid in groups
    return f"chmod 640 {shown}" if is_whole else f"chown root:{_group()} {shown}; chmod 640 {shown}"


def _parent(file: str) -> str:
    return str(PurePath(file).parent)


def _find_closed(file: str) -> str:
    """Return the first directory above a file that this user may not enter, quoted; an empty text without one."""
    for above in reversed(PurePath(file).parents):
        if os.path.isdir(above) and not os.access(above, os.X_OK):
            return _quote(str(above))
    return ""


def _group() -> str:
    """Return the name of this process's group."""
    try:
        return grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        return str(os.getegid())
