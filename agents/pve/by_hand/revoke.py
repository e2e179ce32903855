"""`breakglass-pve revoke`: takes a key away from this host, and the account with its last key."""

import argparse
import os
from collections.abc import Iterator

from ..check.findings import OK, Finding, error, ok, warning
from ..check.key_lines import parse_key_lines, served_vms
from .account import remove_account
from .key_file import edit_file, key_file_of, lock_directory, read_key


def revoke(settings: argparse.Namespace) -> Iterator[Finding]:
    """Remove the lines of a key from Breakglass's key file; yield what was changed."""
    user, key = settings.user, read_key(settings.key)
    path = key_file_of(settings.root, user)
    if not key or "/" in user:
        sentence = "--key needs a public key in one line, like 'ssh-ed25519 AAAA…', and --user the name of an account"
        yield error(f"{sentence}; nothing was changed", "breakglass-pve revoke --help")
        return
    left = ""

    def edit(text: str) -> tuple[str, list[Finding]]:
        nonlocal left
        left, findings = remove_key(text, key)
        return left, findings

    try:
        with lock_directory(os.path.dirname(path)):
            findings = edit_file(path, edit)
            if findings[0].level == OK and not parse_key_lines(left) and user != "root" and not settings.root:
                findings += filter(None, [remove_account(user)])  # under the lock, so that no key is added meanwhile
    except OSError as failure:
        findings = [error(f"{path} can't be read: {failure}; nothing was changed", "name its account with --user")]
    yield from findings
    if findings[0].level == OK:
        yield warning("connections that are open with the key still work", f"pgrep -af 'sshd.*: {user}'; kill these")


def remove_key(text: str, key: str) -> tuple[str, list[Finding]]:
    """Return the text of a key file in which no line of Breakglass has this key; every other line stays."""
    ours = [line for line in parse_key_lines(text) if line.key == key]
    if others := [line for line in ours if served_vms(line) is None]:
        return text, [error(f"line {others[0].number} has this key for something else; nothing was changed", "edit it")]
    if not ours:
        return text, [error("no line of the key file has this key; nothing was changed", "breakglass-pve check")]
    gone = {line.number for line in ours}
    kept = [line for number, line in enumerate(text.split("\n"), 1) if number not in gone]
    return "\n".join(kept), [ok(f"line {number}, which had this key, was removed") for number in sorted(gone)]
