"""Check that claude's user cannot read the handler's files: a process of that user opens each of them.

Modes, groups, ACLs and the file system's own rules all count, and none of them has to be understood here.
"""

import os
import subprocess
from collections.abc import Iterable

from ..config.model import Config
from .command import account

SECONDS = 10.0
# It prints a file that can be read, a directory that can be listed or entered, and what lies anywhere below a
# directory that can be written, where it could be replaced. `:` would end the shell where a redirection fails.
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
    """Return the files and directories that a user can read or replace; raise OSError when we can't be that user."""
    command = ["/bin/sh", "-c", _TRY, "sh", *paths]
    tried = subprocess.run(
        command, user=uid, group=gid, extra_groups=(), env={}, cwd="/", capture_output=True, timeout=SECONDS, check=True
    )
    return os.fsdecode(tried.stdout).splitlines()


def isolation_fault(config: Config) -> str:
    """Return why claude is not isolated from the handler; nothing when it is, or when shared_uid allows it."""
    chat = config.chat
    if chat is None or chat.shared_uid:
        return ""
    if not chat.user:
        return "chat.user is not set"
    try:
        uid, gid = account(chat)
        if uid is None or gid is None:
            return f"chat.user is {chat.user}, which the handler runs as"
        logs = [os.path.abspath(f"{chat.sessions_dir}/{name}") for name in ("turns", "locks")]
        files = [*map(os.path.abspath, config.files), *map(os.path.realpath, config.files)]
        found = readable_by(dict.fromkeys([*files, *logs]), uid, gid)
    except LookupError as error:
        return str(error)
    except (OSError, subprocess.SubprocessError) as error:
        return f"it could not be tried as {chat.user}: {error}"
    return f"{chat.user} can read or replace {', '.join(found)}" if found else ""
