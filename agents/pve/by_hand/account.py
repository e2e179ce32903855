"""The account that the keys log in to. It has uid 0, so its first key makes it, and it goes with its last key."""

import re
import subprocess

from ..account_script import MAKE_ACCOUNT, REMOVE_ACCOUNT
from ..check.findings import Finding, error, find_account, ok
from ..check.reading import read_in_time
from ..check.sshd_settings import DROP_IN

_SCRIPT_SECONDS = 60.0
_NAME = re.compile("[a-z_][a-z0-9_-]{0,31}")


def make_account(user: str) -> Finding | None:
    """Make the account if it does not exist; return what was done. sshd's settings for it must be there before."""
    account = find_account(read_in_time("/etc/passwd") or "", user)
    if account is not None and account.uid == "0":
        return None
    drop_in = read_in_time(DROP_IN) or ""
    if not _NAME.fullmatch(user) or not re.search(f"^Match User {user}$", drop_in, re.MULTILINE):
        sentence = f"{DROP_IN} has no settings for the account {user}, so it was not made; the key was added"
        return error(sentence, "install the package breakglass-host again, or run the recipe")
    if fault := _run_script(MAKE_ACCOUNT, user):
        return error(f"the account {user} was not made: {fault}; the key was added", "fix that, and run this again")
    return ok(f"the account {user} was made for its first key; it has uid 0, and its keys run only the host agent")


def remove_account(user: str) -> Finding | None:
    """Remove the account if it is as it was made; return what was done."""
    if not _NAME.fullmatch(user) or not _exists(user):
        return None
    fault = _run_script(REMOVE_ACCOUNT, user)
    if fault or _exists(user):
        sentence = f"the account {user} has no key any more, and it stays: {fault or 'its line was changed'}"
        return error(sentence, "remove its line: vipw; vipw -s")
    return ok(f"the account {user} had no other key and was removed")


def _exists(user: str) -> bool:
    return find_account(read_in_time("/etc/passwd") or "", user) is not None


def _run_script(script: str, user: str) -> str:
    """Run a text above; return why it failed, or an empty text."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    try:
        ran = subprocess.run(
            ["/bin/sh", "-ec", script],
            env={"PATH": path, "user": user},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SCRIPT_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as failure:
        return str(failure)
    said = ran.stderr.decode("utf-8", "replace").strip().splitlines()
    return (said[-1] if said else f"it ended with {ran.returncode}") if ran.returncode else ""
