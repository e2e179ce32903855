"""A model of one VM, two nodes, two handlers and two ids, as docs/api.md and host-agent.md have them. Pure.

A state is a tuple of tuples of small integers, so that equal states are equal values. `handlers.py` and `steps.py`
say what can happen next: what the programs do, what the network does to them, and what goes wrong. `search.py` says
what must hold.

Id 0, "A", is a `cycle`, which its client sends a second time. Id 1, "B", is a `stop` of another client, with `if_last`
as it was at the start. A step is what nothing can come between: a line is read, a lock is taken, a process ends. The
answers of two hosts to one question come at once, or, from a start with `apart`, one after the other.
"""

from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Power:
    """The VM's power. OFF: a job of ours has stopped it."""

    ON, OFF, OFF_BY_OTHERS = range(3)


class Phase:
    """A job, in the order of its life. From DONE on, it has ended.

    ORPHANED: its process was killed after the stop, and its standby process is there. CHECKED: only a mistake makes it.
    """

    NONE, CLAIMED, CHECKED, LOCKED, RECORDED, STOPPED, ORPHANED, RESUMED = range(8)
    DONE, REFUSED, BUSY, FAILED, STRANDED, KILLED, REUSED, ELSEWHERE = range(8, 16)


class Told:
    """What the client of a sending was told, or a phase from DONE on, with which the job has ended.

    GONE: the connection to the handler broke. DENIED: `unreached`, though the handler knew of an earlier sending.
    """

    UNTOLD, UNREACHED, UNKNOWN, GONE, DENIED = 0, -1, -2, -3, -4


class At:
    """Where a sending is. CHOSEN: the handler has asked the hosts, and has chosen one of them."""

    UNSENT, ARRIVED, CHOSEN, SENT, ATTACHED, LOST, ANSWERED = range(7)


class Line:
    """A connection. DEAD: nothing passes any more, and the handler does not know it yet."""

    DOWN, UP, DEAD = range(3)


class Gap:
    """The gaps: README.md. In FORGOTTEN an id acts once, after a refusal."""

    MOVED_MEANWHILE, NO_ARCHIVE, NO_AGAIN, FORGOTTEN, OVERTAKEN = (1 << number for number in range(5))


class Promise:
    """The promises of the contract. A single step can break the first five, and `search.py` finds the others."""

    LAST = "a verb with if_last does not act after another one"
    TRUE = "stopped is said only of a VM that is stopped"
    FOUND = "a verb goes to the node that shows that it has the VM"
    SINGLE = "no start is sent while another node says that it runs the VM"
    ENDS_IT = "a stop goes to a node that says that it runs the VM, if one does"
    ONCE = "an id acts at most once"
    NOTHING_SENT = "reached:false is never wrong"
    NOTHING_CHANGED = "refused, busy and id-reused have changed nothing"
    ALONE = "a VM has one job at a time"
    SAID = "a VM that is left off has an answer that says so"
    ENDED = "every id ends"


_CODES = ("done", "refused", "busy", "failed", "stranded", "job-killed", "id-reused", "other-node")
ENDINGS = dict(enumerate(_CODES, Phase.DONE))
HOLDING = frozenset({Phase.LOCKED, Phase.RECORDED, Phase.STOPPED, Phase.RESUMED})  # has the VM's lock
UNCHANGED = frozenset({Phase.REFUSED, Phase.BUSY, Phase.REUSED, Phase.ELSEWHERE})  # says that nothing was changed
KNOWS_OFF = frozenset(
    {Phase.STOPPED, Phase.ORPHANED, Phase.RESUMED, Phase.STRANDED, Phase.KILLED}
)  # its answer says that the VM may be off
NOWHERE = -1

# What a node sees of the cluster. Without /etc/pve, or without a quorum, it has only the node of before: 0 or 1.
CLEAR = 2


class Job(NamedTuple):
    """An id at a node: its phase in /run, and if the archive has it. `acted` since the boot: no program asks for it."""

    phase: int = Phase.NONE
    archived: bool = False
    acted: bool = False


class Node(NamedTuple):
    """A Proxmox node with its host agent. `last` is the id + 1 of the newest job past its preconditions, or 0.

    `sees` is CLEAR, or the node that had the VM when this node lost the cluster.
    """

    up: bool = True
    sees: int = CLEAR
    last: int = 0
    jobs: tuple[Job, ...] = (Job(), Job())


class Answer(NamedTuple):
    """What a host says when it is asked for an id: if it knows the id, and which node has the VM (or NOWHERE).

    `sure`: by the cluster's word. `runs`: a process of the VM is there.
    """

    known: bool
    shown: int
    sure: bool = True
    runs: bool = False


class Sending(NamedTuple):
    """One request of a client. `stray` is the node + 1 that a line left behind may still reach, or 0.

    `first` is the host that has answered first, with its answer, None if it was silent. `known`: the node was chosen
    because it knows the id.
    """

    at: int = At.UNSENT
    handler: int = 0
    node: int = 0
    told: int = Told.UNTOLD
    stray: int = 0
    known: bool = False
    first: tuple[int, Answer | None] | None = None


class Handler(NamedTuple):
    """Which node last proved to a handler that it has the VM; which ids it has sent; and its connections."""

    node: int = 0
    sent: tuple[int, ...] = (0, 0)
    links: tuple[int, ...] = (Line.UP, Line.UP)


class State(NamedTuple):
    """Everything. From `acts` on it is what an onlooker counts: no program asks for it.

    `acts`: how often each id changed the power. `wrong`: the promise that the last step broke.
    `gaps`: the documented gaps that were entered. `faults` and `moves`: how many there were.

    `copy`: the node + 1 that runs the VM although the other one has it, or 0. `apart`, `twice` (that a node may
    continue with the VM after it has moved) and `lies` (node 1 says that it knows every id) never change.
    """

    place: int = 0
    power: int = Power.ON
    nodes: tuple[Node, ...] = (Node(), Node())
    handlers: tuple[Handler, ...] = (Handler(), Handler())
    sendings: tuple[Sending, ...] = (Sending(),) * 3
    acts: tuple[int, ...] = (0, 0)
    wrong: str = ""
    gaps: int = 0
    faults: int = 0
    moves: int = 0
    apart: bool = False
    copy: int = 0
    twice: bool = False
    lies: bool = False


Step = tuple[str, State]  # a sentence for it, and what follows

IDS = (0, 0, 1)  # the id of each sending
FIRST = (True, False, True)  # if it is the first one of its id

ALL_GAPS = Gap.MOVED_MEANWHILE | Gap.NO_ARCHIVE | Gap.NO_AGAIN | Gap.FORGOTTEN | Gap.OVERTAKEN


class Rules(NamedTuple):
    """The rules. Where one of them is false, the programs make that mistake."""

    claims_once: bool = True  # an id that has ended is not claimed again
    takes_lock: bool = True  # one job at a time
    looks_under_lock: bool = True  # preconditions are looked at under the lock
    looks_before_acting: bool = True  # and before anything has changed
    archives_before_acting: bool = True  # the archive has the id before anything has changed
    asks_archive: bool = True  # and is asked for it after a boot
    standby_yields: bool = True  # to another job's lock and to a later decision
    says_stranded: bool = True  # a cycle that was killed for good after its stop is not `done`
    looks_again: bool = True  # a stop that finds no process looks again whether the VM has gone to another node
    says_what_it_sees: bool = True  # a node with neither a process nor the cluster does not say `stopped`
    knows_what_left: bool = True  # `unreached` only if no line left
    remembers_sent: bool = True  # nor had one left for this id before
    gives_up: bool = True  # without a connection, a lost answer is given up after a while
    asks_hosts: bool = True  # before a verb is sent, the hosts are asked for its id and for the VM
    asks_all: bool = True  # also the one where the VM was
    waits_for_all: bool = True  # and while one of them is silent, a repeated sending is not sent
    goes_where_known: bool = True  # a host that knows the id gets it, wherever the VM is
    stays: bool = True  # a verb whose host can't be reached is not sent to the other one
    stays_where_known: bool = True  # nor if that host was chosen because it knows the id
    denies_nothing_known: bool = True  # and the answer is then not `unreached`
    needs_one_proof: bool = True  # while both hosts say that they have the VM, they are asked again
    proves_by_quorum: bool = True  # without the cluster, only a process proves that the VM is here
    elsewhere_is_known: bool = True  # a host knows an id that it refused with "other-node"
    elsewhere_is_final: bool = True  # and refuses it again, wherever the VM is by then
    says_again: bool = True  # the client says that it repeats itself
    doubts_claims: bool = True  # a host that does not have the VM is not believed to know a new id
    refuses_second: bool = True  # while a stale copy runs, no start is sent
    ends_copies: bool = True  # a stop goes to a stale copy, if the VM itself is off
    proves_stops: bool = True  # and is `done` only if no other host that answers runs the VM


class Limits(NamedTuple):
    """How much may go wrong, and how often the VM may move."""

    faults: int
    moves: int


def put(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    """Return `values` with one of them replaced."""
    return (*values[:index], value, *values[index + 1 :])


NAMES = "AB"


def name(number: int) -> str:
    """Return what a sending is called in a trace."""
    return f"{NAMES[IDS[number]]}{'' if FIRST[number] else ' again'}"


def put_sending(state: State, number: int, sending: Sending) -> State:
    """Return the state with one sending replaced."""
    return state._replace(sendings=put(state.sendings, number, sending))


def put_handler(state: State, number: int, handler: Handler) -> State:
    """Return the state with one handler replaced."""
    return state._replace(handlers=put(state.handlers, number, handler))


def put_job(state: State, place: int, job_id: int, job: Job, last: int | None = None) -> State:
    """Return the state with one job replaced, and with its node's `last` if one is given."""
    node = state.nodes[place]
    changed = Node(node.up, node.sees, node.last if last is None else last, put(node.jobs, job_id, job))
    return state._replace(nodes=put(state.nodes, place, changed))


def has_process(state: State, place: int) -> bool:
    """Tell whether the VM, or a stale copy of it, runs on a node."""
    return (state.place == place and state.power == Power.ON) or state.copy == place + 1


def is_used(state: State, number: int) -> bool:
    """Tell whether a handler has a sending that has no answer yet, or may still get one."""
    return any(
        s.handler == number if s.at != At.UNSENT else number == 0 or not FIRST[n]
        for n, s in enumerate(state.sendings)
        if s.at != At.ANSWERED
    )


def end(state: State, number: int, told: int, stray: int) -> State:
    """Return the state in which a sending is answered. What plays no part from then on is as at the start."""
    handler = state.sendings[number].handler
    state = put_sending(state, number, Sending(at=At.ANSWERED, told=told, stray=stray))
    return state if is_used(state, handler) else put_handler(state, handler, Handler())
