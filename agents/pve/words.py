"""The words of the forced command, as tables: verbs, deadlines, exit codes.

Nothing here acts. `handler/verbs.py` holds the same verbs for people; a contract test compares the two.
"""

VERSION = "0.3.0"

MUTATING = ("start", "stop", "reset", "cycle")
VERBS = ("status", "forensics", *MUTATING, "history", "screen", "where", "job", "check", "ping", "session")

# Seconds until a verb ends by itself, whatever hangs. `start` and `cycle` get more where Proxmox gives the start of
# the VM more (job.py): the job records its own.
DEADLINES = {
    "status": 4.0,
    "ping": 4.0,
    "where": 2.0,
    "history": 4.0,
    "job": 4.0,
    "screen": 10.0,
    "check": 20.0,
    "forensics": 20.0,
    "reset": 40.0,
    "stop": 240.0,
    "start": 180.0,
    "cycle": 420.0,
}

DONE = 0
AGENT_REFUSED = 10
BUSY = 11
REFUSED = 12
FAILED = 13
DEADLINE = 14
STRANDED = 15
READ_ONLY = 16
ID_REUSED = 17

# Never 255 or 126 and up: those exit codes are ssh's and the shell's.
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
ELSEWHERE = "elsewhere"  # stopped on this host, and another node has the VM's configuration: it may run there
WITHOUT_PROCESS = (STOPPED, ELSEWHERE)  # states in which no QEMU of the VM is on this host
MOVED_CODES = ("other-node", "moved")  # verdicts that name the node which has the VM
STALE_COPY = "stale-copy"  # a QEMU of the VM is here, and another node has the VM
PLACE_UNKNOWN = "place-unknown"  # no QEMU of the VM is here, and /etc/pve does not tell which node has it

CONTAINER = "container"  # the verdict on a number that belongs to a container
CONTAINER_SENTENCE = "this number belongs to a container, and Breakglass serves VMs only: use pct on its node"

# The refusals that `anyway=` can name: the VM's storage hangs, and Proxmox could not start the VM again.
STORAGE_HUNG = "storage-hung"
WOULD_NOT_START = "would-not-start"
ANYWAY = {STORAGE_HUNG: ("reset", "cycle"), WOULD_NOT_START: ("cycle",)}

GOES_WITH = {**ANYWAY, "drill": ("cycle",), "doctor": ("status",)}  # of `anyway=`, `proves=`

CLAIM_SECONDS = 5.0  # until a job that was started must have claimed its id
LATE_SECONDS = 20.0  # that a line may have waited to be read; a handler gives it up after 25 s (patience.py)
DAY = 24 * 3600.0
