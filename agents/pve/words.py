"""The words of the forced command, as tables: verbs, exit codes, states.

Nothing here acts. The handler reads these tables too, and `./dev generate` writes them into the documents, the page and
claude's brief.
"""

from typing import NamedTuple

VERSION = "0.3.0"

# where the Debian package breakglass-host has the host agent, and where the recipe puts it
PACKAGED, PASTED = "/usr/sbin/breakglass-pve", "/usr/local/sbin/breakglass-pve"

STORAGE_HUNG = "storage-hung"
WOULD_NOT_START = "would-not-start"
# The refusals that `anyway=` can name, and the possible cost of overriding each.
ANYWAY = {
    STORAGE_HUNG: "QEMU may be unable to end until its storage answers; the VM cannot start before then.",
    WOULD_NOT_START: "The VM may stay off until Proxmox can start it.",
}
PROVES = ("drill", "doctor")  # what `proves=` can name


class Verb(NamedTuple):
    """The properties of a verb. POST /pve accepts the verbs with a label; the handler itself sends the others."""

    label: str
    does: str
    deadline: float  # seconds until the verb ends, even if something hangs; start and cycle can get more (jobs/job.py)
    stages: tuple[str, ...] = ()  # the stages of the verb's job; empty for a verb without a job
    mutating: bool = False
    loses_work: bool = False
    needs_signature: bool = False  # refused for a bearer token, a host's read-only key or claude
    allowed_by: str = ""  # the verb whose permission allows this verb too, if this one has no own permission
    goes_with: tuple[str, ...] = ()  # the words of ANYWAY and PROVES that the verb accepts

    @property
    def is_job(self) -> bool:
        """Tell whether the host records the verb by its id; any other verb runs again when it is repeated."""
        return bool(self.stages)

    @property
    def consequence(self) -> str:
        """What a person should know before the verb runs."""
        return f"{self.does}.{' Unsaved work in the VM is lost.' if self.loses_work else ''}"


_EVIDENCE = ("preflight", "forensics")


def _power(
    label: str, does: str, deadline: float, *stages: str, costs: bool = True, words: tuple[str, ...] = ()
) -> Verb:
    return Verb(label, does, deadline, (*_EVIDENCE, *stages, "verify"), True, costs, True, goes_with=words)


VERBS = {
    "status": Verb("Check status", "Reads the VM's state; changes nothing", 4.0, goes_with=("doctor",)),
    "forensics": Verb("Collect evidence", "Takes evidence and the console's picture; changes nothing", 20.0, _EVIDENCE),
    "start": _power("Start", "Starts the VM, or continues a paused one", 180.0, "start", costs=False),
    "stop": _power("Stop", "Pulls the power cord; the VM stays off", 240.0, "stop"),
    "reset": _power("Reset", "Presses the reset button", 40.0, "reset", words=(STORAGE_HUNG,)),
    "cycle": _power("Power-cycle", "Power cord out and in", 420.0, "stop", "start", words=(*ANYWAY, "drill")),
    "history": Verb("History", "Lists what was done lately and by whom; changes nothing", 4.0),
    "screen": Verb(
        "Live picture", "Shows the console now; changes nothing", 10.0, needs_signature=True, allowed_by="forensics"
    ),
    "states": Verb("All states", "Shows all VMs; changes nothing", 8.0, needs_signature=True, allowed_by="status"),
    "where": Verb("", "Says which node has the VM", 2.0),
    "job": Verb("", "Shows the output of a job in the history", 4.0),
    **dict.fromkeys(("told", "seen", "opinion"), Verb("", "Marks an alert's capture", 4.0, needs_signature=True)),
    "check": Verb("", "Lists what the account lacks", 20.0, needs_signature=True),
    "ping": Verb("", "Answers", 4.0),
    "session": Verb("", "Serves requests until it is closed", 0.0),
}
MUTATING = tuple(each for each in VERBS if VERBS[each].mutating)
DEADLINES = {name: verb.deadline for name, verb in VERBS.items()}
GOES_WITH = {word: tuple(one for one in VERBS if word in VERBS[one].goes_with) for word in (*ANYWAY, *PROVES)}

LAST_WORDS = "; its last words: "  # in a verdict's sentence; the guest wrote what follows

DONE = 0
AGENT_REFUSED = 10
BUSY = 11
REFUSED = 12
FAILED = 13
DEADLINE = 14
STRANDED = 15
READ_ONLY = 16
ID_REUSED = 17

# Never 255 or 126 and up: those exit codes belong to ssh and the shell.
OUTCOMES = {
    DONE: "done",
    AGENT_REFUSED: "failed",
    BUSY: "busy",
    REFUSED: "refused",
    FAILED: "failed",
    DEADLINE: "failed",
    STRANDED: "failed",
    READ_ONLY: "refused",
    ID_REUSED: "id-reused",
}

STOPPED = "stopped"
ELSEWHERE = "elsewhere"  # stopped on this host, and another node has the VM's configuration, so it may run there
WITHOUT_PROCESS = (STOPPED, ELSEWHERE)  # states in which no QEMU of the VM is on this host
MOVED_CODES = ("other-node", "moved")  # verdicts that name the node which has the VM
STALE_COPY = "stale-copy"  # a QEMU of the VM is here, but another node has the VM
PLACE_UNKNOWN = "place-unknown"  # no QEMU of the VM is here, and /etc/pve does not tell which node has the VM

CONTAINER = "container"  # the verdict on a number that belongs to a container
CONTAINER_SENTENCE = "this number belongs to a container, and Breakglass serves VMs only: use pct on its node"
WRONG_NAME = 'VM {} is "{}" on Proxmox and not "{}": another VM has this number now'  # the sentence of wrong-vm

CLAIM_SECONDS = 5.0  # the time within which a started job must have claimed its id
LATE_SECONDS = 20.0  # how long a line may wait to be read; a handler gives up after 25 s (patience.py)
DAY = 24 * 3600.0
