"""The command on the host that a verdict names as the cure, as a code with its numbers and names. Pure.

The handler makes the command from the code by its own table (handler/base/cures.py), because a host's free text must
never become a command that a person copies into root's shell.
"""

import re
from dataclasses import replace

from ..jobs.result import Verdict

# The words by which a sentence names a cure. The first match counts.
_CURES = {
    "continue-qemu": re.compile(r"\bkill -CONT (?P<pid>[0-9]+)"),
    "thaw": re.compile("fsfreeze-thaw"),
    "unlock": re.compile("unlock it by hand|by hand: qm unlock"),
    "restart-pmxcfs": re.compile("systemctl restart pve-cluster"),
    "start-ha": re.compile("systemctl start pve-ha-crm pve-ha-lrm"),
    "see-ha": re.compile("(?:see|look at|by hand:) ha-manager status"),
    "see-quorum": re.compile("(?:see|by hand:) pvecm status"),
    "end-leftover": re.compile(r"\bkill (?:process )?(?P<pid>[0-9]+)(?= first|,)"),
    "see-volumes": re.compile(r"\bvolume '(?P<storage>[A-Za-z][A-Za-z0-9._-]*):"),
    "see-storages": re.compile(r"\bstorage '|\bstat for '|logical volume|volume group|disk image|pvesm status"),
    "see-bridges": re.compile(r"\bbridge '"),
}


def find_cure(words: str) -> dict[str, object] | None:
    """Return the cure that these words of a verdict name, `code` and perhaps `pid` or `storage`; None without one."""
    for code, pattern in _CURES.items():
        if found := pattern.search(words):
            values = found.groupdict().items()
            return {"code": code, **{name: int(value) if value.isdigit() else value for name, value in values}}
    return None


def name_cure(verdict: Verdict) -> Verdict:
    """Return the verdict of a verb that was refused or failed with the cure that it names, if it names one.

    Of the evidence only the lines of the host agent itself count, because others can have a guest's words.
    """
    own = [line for line in verdict.evidence if line.startswith("by hand: ")]
    return replace(verdict, fix=find_cure("\n".join((verdict.sentence, *own))))
