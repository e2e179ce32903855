"""The command on the host that a verdict names as the cure, as a code with its numbers. Pure.

The handler makes the command from the code by its own table (handler/base/cures.py), because a host's free text must
never become a command that a person copies into root's shell.
"""

import re

# The words by which a sentence names a cure. The first match counts.
_CURES = {
    "continue-qemu": re.compile(r"\bkill -CONT (?P<pid>[0-9]+)"),
    "thaw": re.compile("fsfreeze-thaw"),
    "unlock": re.compile("unlock it by hand"),
    "restart-pmxcfs": re.compile("systemctl restart pve-cluster"),
    "start-ha": re.compile("systemctl start pve-ha-crm pve-ha-lrm"),
    "see-ha": re.compile("see ha-manager status"),
    "see-quorum": re.compile("see pvecm status"),
    "end-leftover": re.compile(r"\bkill process (?P<pid>[0-9]+)"),
}


def find_cure(words: str) -> dict[str, object] | None:
    """Return the cure that these words of a verdict name, `code` and perhaps `pid`; None if they name none."""
    for code, pattern in _CURES.items():
        if found := pattern.search(words):
            return {"code": code, **{name: int(number) for name, number in found.groupdict().items()}}
    return None
