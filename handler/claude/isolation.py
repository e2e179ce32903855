"""Check that claude's users cannot read the handler's files: a process of one of them opens each of them.

So modes, groups, ACLs and the file system's own rules all count, and this code interprets none of them. The process has
the first id of the range; files that belong to another one are looked for by number.
"""

import grp
import os
import pwd
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from ..base.text import shown
from ..config.model import Config
from .apart import run_apart
from .sandbox import sandbox_fault, wall_fault
from .start import listen

SECONDS = 8.0  # for all that is tried, which is less than the handler waits for the launcher's answer
HANDLERS = ("turns", "locks", "refused", "transcripts", "conversations")  # of sessions.dir; the rest is root's
SUBORDINATE = ("/etc/subuid", "/etc/subgid")
# claude splits the name of its shell at a space, ssh its configuration, the sandbox shows the system read-only, and the
# transcript's name is made from the directory's, which the CLI counts in UTF-16.
_PLAIN = re.compile(r"[\w./@+=:-]+", re.ASCII)
_SYSTEM = ("/usr/", "/etc/", "/proc/", "/dev/", "/sys/")
# The script prints each file that can be read, each directory that can be listed or entered, and each path below a
# directory that can be written, because it could be replaced there. It uses `true`: after `:` a failed redirection
# would end the shell.
_TRY = """\
for path do
    found=
    if [ -d "$path" ]; then ls "$path/" || cd "$path"; else true <"$path"; fi >/dev/null 2>&1 && found=yes
    above=$path
    while [ -n "$above" ] && [ -z "$found" ]; do
        above=${above%/*}
        [ -w "$above/" ] && [ ! -k "$above/" ] && found=yes
    done
    [ -z "$found" ] || echo "$path"
done
true
"""


def readable_by(paths: Iterable[str], uid: int) -> list[str]:
    """Return the files and directories that a user can read or replace, whose group has the same number.

    Raises OSError when the handler can't start a process of that user.
    """
    command = ["/bin/sh", "-c", _TRY, "sh", *paths]
    tried = subprocess.run(
        command, user=uid, group=uid, extra_groups=(), env={}, cwd="/", capture_output=True, timeout=SECONDS, check=True
    )
    return os.fsdecode(tried.stdout).splitlines()


def isolation_fault(config: Config) -> str:
    """Return why claude is not isolated from the handler, or "" when it is, or when shared_uid allows it."""
    chat = config.chat
    if chat is None:
        return ""
    sessions = os.path.realpath(chat.sessions_dir)
    if not _PLAIN.fullmatch(sessions) or sessions.startswith(_SYSTEM):
        need = "chat needs a path of letters, digits and ._/@+=:- that is outside /usr and /etc"
        return f"sessions.dir is {shown(sessions)}: {need}"
    if chat.shared_uid:
        return ""
    if not chat.uids:
        return "chat.uids is not set"
    if os.geteuid() != 0:
        return "chat.uids needs the launcher: let root start the handler, with [server] user"
    first, last = chat.uids
    logs = [f"{sessions}/{name}" for name in HANDLERS]
    files = dict.fromkeys([*map(os.path.abspath, config.files), *map(os.path.realpath, config.files), *logs])
    fault = _owner_fault(range(first, last + 1), files)
    if fault:
        return fault
    until = time.monotonic() + SECONDS
    try:
        found = readable_by(files, first)
    except (OSError, subprocess.SubprocessError) as error:
        return f"the check could not run as user {first}: {error}"
    if found:
        return f"user {first} of chat.uids can read or replace {', '.join(found)}"
    fault = sandbox_fault(first, until - time.monotonic())
    if fault:
        return f"claude's commands can't be run in a sandbox: {fault}"
    fault = _network_fault()
    if fault:
        return f"claude can't have a network namespace of its own: {fault}"
    program = shutil.which(chat.command)  # one that is missing is said by each turn
    if program is None:
        return ""
    fault = wall_fault(os.path.realpath(program), f"{sessions}/work", first, until - time.monotonic())
    return f"claude can't be run behind its wall: {fault}" if fault else ""


def _network_fault() -> str:
    """Return why claude can't be kept from this machine's network, or ""."""
    try:
        with listen() as ours:
            _, namespace = run_apart(lambda: _try_network(ours.getsockname()))
    except OSError as error:
        return str(error)
    os.close(namespace)
    return ""


def _try_network(elsewhere: tuple[str, int]) -> None:
    """Raise OSError if a socket that listens here can't be reached, or if one in another namespace can."""
    with listen() as here:
        socket.create_connection(here.getsockname()).close()
    try:
        socket.create_connection(elsewhere).close()
    except ConnectionRefusedError:
        return
    raise OSError("the namespace has this machine's loopback")


def _owner_fault(uids: range, files: Iterable[str]) -> str:
    """Return what ids of the range already belong to, or "": an account, a group, a range of /etc/subuid, or a file."""
    for uid in uids:
        for kind, look_up in (("user", pwd.getpwuid), ("group", grp.getgrgid)):
            try:
                name = look_up(uid)[0]
            except KeyError:
                continue
            return f"{uid} of chat.uids is the {kind} {name}; choose ids that have no name"
    for path in SUBORDINATE:
        for name, first, count in _read_ranges(path):
            if first < uids.stop and uids.start < first + count:
                more = f"{first}-{first + count - 1}"
                return f"{path} gives {more} to {name}, and some of these are in chat.uids; choose other ids"
    for path in files:
        try:
            found = os.stat(path)
        except OSError:
            continue
        if found.st_uid in uids or found.st_gid in uids:
            return f"{path} belongs to {found.st_uid}:{found.st_gid}, and chat.uids has one of these; choose other ids"
    return ""


def _read_ranges(path: str) -> list[tuple[str, int, int]]:
    """Return the name, first id and count of each line of a file as subuid(5) describes it; [] without the file."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    matches = (re.fullmatch(r"([^:]+):([0-9]{1,10}):([0-9]{1,10})\s*", line) for line in lines)
    return [(match[1], int(match[2]), int(match[3])) for match in matches if match]
