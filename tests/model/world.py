"""A model of one VM, two nodes, two handlers and two ids, as docs/protocol.md has them. Pure.

A state is a tuple of tuples of small integers, so that equal states are equal values. `steps.py` says what can happen
next: what the programs do, what the network does to them, and what goes wrong. `promises.py` says what must hold.

Id 0, "A", is a `cycle`, which its client sends a second time. Id 1, "B", is a `cycle` of another client, with `if_last`
as it was at the start. A step is what nothing can come between: a line is read, a lock is taken, a process ends.
"""

from typing import NamedTuple, TypeVar

T = TypeVar("T")

# The VM's power.
ON, OFF, OFF_BY_OTHERS = range(3)  # OFF: a job of ours has stopped it

# A job, in the order of its life; from DONE on it has ended.
# ORPHANED: its process was killed after the stop, and its standby process is there. CHECKED: only a mistake makes it.
NONE, CLAIMED, CHECKED, LOCKED, RECORDED, STOPPED, ORPHANED, RESUMED = range(8)
DONE, REFUSED, BUSY, FAILED, STRANDED, KILLED, REUSED, ELSEWHERE = ENDS = range(8, 16)
_CODES = ("done", "refused", "busy", "failed", "stranded", "job-killed", "id-reused", "other-node")
ENDINGS = dict(zip(ENDS, _CODES, strict=True))
HOLDING = frozenset({LOCKED, RECORDED, STOPPED, RESUMED})  # has the VM's lock
UNCHANGED = frozenset({REFUSED, BUSY, REUSED, ELSEWHERE})  # says that nothing was changed
KNOWS_OFF = frozenset({STOPPED, ORPHANED, RESUMED, STRANDED, KILLED})  # its answer says that the VM may be off

# One sending of an id, and what its client was told. From DONE on it is a job's end.
# GONE: the connection to the handler broke. DENIED: `unreached`, though this handler had sent the id before.
UNTOLD, UNREACHED, UNKNOWN, GONE, DENIED = 0, -1, -2, -3, -4

# Where a sending is.
UNSENT, ARRIVED, SENT, ATTACHED, LOST, ANSWERED = range(6)


class Job(NamedTuple):
    """An id at a node: its phase in /run, and if the archive has it. `acted` since the boot: no program asks for it."""

    phase: int = NONE
    archived: bool = False
    acted: bool = False


class Node(NamedTuple):
    """A Proxmox node with its host agent. `last` is the id + 1 of the newest job past its preconditions, or 0."""

    up: bool = True
    last: int = 0
    jobs: tuple[Job, ...] = (Job(), Job())


class Sending(NamedTuple):
    """One request of a client. `stray` is the node + 1 that a line left behind may still reach, or 0."""

    at: int = UNSENT
    handler: int = 0
    node: int = 0
    told: int = UNTOLD
    stray: int = 0
    followed: bool = False


class Handler(NamedTuple):
    """Where a handler sends the VM's requests; per id how many sendings it may have sent; and its connections."""

    node: int = 0
    sent: tuple[int, ...] = (0, 0)
    links: tuple[bool, ...] = (True, True)


class State(NamedTuple):
    """Everything. From `acts` on it is what an onlooker counts: no program asks for it.

    `acts`: how often each id changed the power. `ignored`: id 1 acted at a node where id 0 had, against its `if_last`.
    `gaps`: the documented gaps that were entered. `faults` and `moves`: how many there were.
    """

    place: int = 0
    power: int = ON
    nodes: tuple[Node, ...] = (Node(), Node())
    handlers: tuple[Handler, ...] = (Handler(), Handler())
    sendings: tuple[Sending, ...] = (Sending(),) * 3
    acts: tuple[int, ...] = (0, 0)
    ignored: bool = False
    gaps: int = 0
    faults: int = 0
    moves: int = 0


IDS = (0, 0, 1)  # the id of each sending
FIRST = (True, False, True)  # if it is the first one of its id

# The gaps: docs/threat-model.md, "Where an id can act twice". In the last one it acts once, after a refusal.
MOVED_MEANWHILE, NO_ARCHIVE, NO_AGAIN, FORGOTTEN = (1 << number for number in range(4))
ALL_GAPS = MOVED_MEANWHILE | NO_ARCHIVE | NO_AGAIN | FORGOTTEN


class Rules(NamedTuple):
    """The rules. Where one of them is false, the programs make that mistake.

    The last six are those of a handler that follows the VM from node to node. The contract does not have them yet.
    """

    claims_once: bool = True  # an id that has ended is not claimed again
    takes_lock: bool = True  # one job at a time
    looks_under_lock: bool = True  # preconditions are looked at under the lock
    looks_before_acting: bool = True  # and before anything has changed
    archives_before_acting: bool = True  # the archive has the id before anything has changed
    asks_archive: bool = True  # and is asked for it after a boot
    standby_yields: bool = True  # to another job's lock and to a later decision
    says_stranded: bool = True  # a cycle that was killed for good after its stop is not `done`
    knows_what_left: bool = True  # `unreached` only if no line left
    remembers_sent: bool = True  # nor had one left for this id before
    gives_up: bool = True  # without a connection, a lost answer is given up after a while
    follows: bool = True  # after "other-node", the other node is tried
    asks_others: bool = True  # the other node is asked for the id first
    waits_for_others: bool = True  # and without its answer, a repeated sending is not sent
    says_again: bool = True  # the client says that it repeats itself
    elsewhere_is_new: bool = True  # a node that refused an id with "other-node" doesn't know it
    finds_elsewhere_first: bool = True  # and says so before "busy", which would be final


class Limits(NamedTuple):
    """How much may go wrong, and how often the VM may move."""

    faults: int
    moves: int


def put(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    """Return `values` with one of them replaced."""
    return (*values[:index], value, *values[index + 1 :])
