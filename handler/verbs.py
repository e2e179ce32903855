"""The verbs, for people. This is the only list of them; a contract test compares it with the host agent, the page and
the README."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """One word of the grammar. `seconds`: by when the host ends it itself (PROTOCOL section 4)."""

    name: str
    mutating: bool
    seconds: float
    label: str
    consequence: str

    @property
    def is_job(self) -> bool:
        """Tell whether the host remembers it by its id; the others simply run again."""
        return self.mutating or self.name == "forensics"


VERBS = {
    verb.name: verb
    for verb in (
        Verb("status", False, 4, "Check status", "Reads the VM's state; changes nothing."),
        Verb(
            "forensics",
            False,
            20,
            "Collect forensics",
            "Takes the evidence and the console's picture; changes nothing.",
        ),
        Verb("start", True, 180, "Start", "Starts the VM, or lets a paused one go on."),
        Verb(
            "stop", True, 120, "Stop", "Like pulling the power cord: unsaved work in the VM is lost, and it stays off."
        ),
        Verb("reset", True, 40, "Reset", "Like pressing the reset button: unsaved work in the VM is lost."),
        Verb(
            "cycle",
            True,
            300,
            "Power-cycle",
            "Like pulling the power cord and plugging it in again: unsaved work is lost; QEMU starts anew.",
        ),
        Verb("history", False, 4, "History", "Lists what was done lately; changes nothing."),
    )
}

ALLOWABLE = (*VERBS, "chat")
