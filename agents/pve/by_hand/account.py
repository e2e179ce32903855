"""The account that the keys log in to. Its first key makes it and its last key takes it away, because it has uid 0.

The two texts are for sh, with the account's name in $user. The recipe of `breakglass host install-commands` and the
scripts of the package breakglass-host contain them too.
"""

import re
import subprocess

from ..check.findings import Finding, error, find_account, ok
from ..check.reading import read_in_time
from ..check.sshd_settings import DROP_IN

MAKE_ACCOUNT = """\
# Its shell is /bin/sh, because bash would read ~/.bashrc first. Its password field is *, which matches no password;
# with ! instead, sshd without PAM would treat the account as locked. The account never expires, because PAM would then
# refuse its keys too. UID_MIN=0 keeps useradd from warning that 0 is an unusual uid.
getent passwd "$user" >/dev/null ||
    useradd --key UID_MIN=0 --non-unique --uid 0 --gid 0 --home-dir / --no-create-home --no-log-init \\
        --shell /bin/sh "$user"
[ "$(id -u "$user")" = 0 ] || {
    echo "the account $user exists and its uid is not 0; remove it, or use another account" >&2
    exit 1
}
[ "$(getent shadow "$user" | cut -d: -f2)" = '*' ] || usermod --password '*' "$user"
chage -m 0 -M -1 -I -1 -E -1 "$user\""""
REMOVE_ACCOUNT = """\
# An account that somebody has changed stays. vipw removes the account's line, because userdel refuses a uid that is in
# use. vipw sees no change to a file that was written in the same second.
if [ "$(getent passwd "$user")" = "$user:x:0:0::/:/bin/sh" ]; then
    sleep 1.1
    for file in '' -s; do
        VISUAL="sed -i '/^$user:/d'" vipw -q $file </dev/null >/dev/null 2>&1 || {
            echo "the account $user stays, because vipw fails" >&2
            exit 1
        }
    done
fi"""
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
        sentence = f"the account {user} has no key any more, and it stays: {fault or 'somebody has changed it'}"
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
