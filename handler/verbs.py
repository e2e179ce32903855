"""The verbs, with their texts for people.

This is the only list of them; a contract test compares it with the host agent, the page and the README. It has no
deadlines: the host agent sends the deadline of each job.
"""

from typing import NamedTuple


class Verb(NamedTuple):
    """One word of the grammar."""

    name: str
    mutating: bool
    label: str
    consequence: str

    @property
    def is_job(self) -> bool:
        """Tell whether the host records the verb by its id; any other verb runs again when it is repeated."""
        return self.mutating or self.name == "forensics"


VERBS = {
    verb.name: verb
    for verb in (
        Verb("status", False, "Check status", "Reads the VM's state; changes nothing."),
        Verb("forensics", False, "Collect evidence", "Takes the evidence and the console's picture; changes nothing."),
        Verb("start", True, "Start", "Starts the VM, or continues a paused one."),
        Verb("stop", True, "Stop", "Like pulling the power cord: unsaved work in the VM is lost, and it stays off."),
        Verb("reset", True, "Reset", "Like pressing the reset button: unsaved work in the VM is lost."),
        Verb(
            "cycle",
            True,
            "Power-cycle",
            "Like pulling the power cord and plugging it in again: unsaved work is lost; QEMU starts anew.",
        ),
        Verb("history", False, "History", "Lists what was done lately; changes nothing."),
        Verb("screen", False, "Live picture", "Shows the console as it is now; changes nothing."),
    )
}

ALLOWED_BY = {"screen": "forensics"}  # a verb that has no permission of its own, and whose it needs
ALLOWABLE = (*(name for name in VERBS if name not in ALLOWED_BY), "chat")


class Override(NamedTuple):
    """A refusal that a person may lift with `anyway`: for which verbs, and what that can cost."""

    verbs: tuple[str, ...]
    cost: str


ANYWAY = {
    "storage-hung": Override(
        ("reset", "cycle"), "QEMU may be unable to end until its storage answers; the VM cannot start before then."
    ),
    "would-not-start": Override(("cycle",), "The VM may stay off until Proxmox can start it."),
}
CAPTURE_ID = "alert-"  # how the ids of alerts' captures begin, which no caller chooses
PROPOSAL_ID = "job_"  # how the ids begin under which claude's proposals are approved
