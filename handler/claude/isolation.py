"""Check that claude's user cannot read the handler's files: a process of that user opens each of them.

So modes, groups, ACLs and the file system's own rules all count, and this code interprets none of them.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable

from ..config.model import Config
from ..text import shown
from .command import find_account
from .sandbox import sandbox_fault, wall_fault

SECONDS = 10.0
# claude splits the name of its shell at a space, ssh its configuration, and the sandbox shows the system read-only.
_PLAIN = re.compile(r"[\w./@+=:-]+")
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


def readable_by(paths: Iterable[str], uid: int, gid: int) -> list[str]:
    """Return the files and directories that a user can read or replace.

    Raises OSError when the handler can't start a process of that user.
    """
    command = ["/bin/sh", "-c", _TRY, "sh", *paths]
    tried = subprocess.run(
        command, user=uid, group=gid, extra_groups=(), env={}, cwd="/", capture_output=True, timeout=SECONDS, check=True
    )
    return os.fsdecode(tried.stdout).splitlines()


def isolation_fault(config: Config) -> str:
    """Return why claude is not isolated from the handler, or "" when it is, or when shared_uid allows it."""
    chat = config.chat
    if chat is None:
        return ""
    sessions = os.path.abspath(chat.sessions_dir)
    if not _PLAIN.fullmatch(sessions) or sessions.startswith(_SYSTEM):
        need = "chat needs a path of letters, digits and ._/@+=:- that is outside /usr and /etc"
        return f"sessions.dir is {shown(sessions)}: {need}"
    if chat.shared_uid:
        return ""
    if not chat.user:
        return "chat.user is not set"
    try:
        uid, gid = find_account(chat)
        if uid is None or gid is None:
            return f"chat.user is {chat.user}, which the handler runs as"
        logs = [os.path.abspath(f"{chat.sessions_dir}/{name}") for name in ("turns", "locks", "refused")]
        files = [*map(os.path.abspath, config.files), *map(os.path.realpath, config.files)]
        found = readable_by(dict.fromkeys([*files, *logs]), uid, gid)
    except LookupError as error:
        return str(error)
    except (OSError, subprocess.SubprocessError) as error:
        return f"the check could not run as {chat.user}: {error}"
    if found:
        return f"{chat.user} can read or replace {', '.join(found)}"
    fault = sandbox_fault((uid, gid))
    if fault:
        return f"claude's commands can't be run in a sandbox: {fault}"
    program = shutil.which(chat.command)  # one that is missing is said by each turn
    fault = wall_fault(os.path.realpath(program), (uid, gid)) if program else ""
    return f"claude can't be run behind its wall: {fault}" if fault else ""
