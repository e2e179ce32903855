"""The lines that prove a verdict, and the comparison of the disks' queues behind them. Pure."""

from ..jobs.result import Verdict
from .cures import find_cure
from .evidence import Evidence, Queue
from .obstacles import TROUBLES, obstacle_to
from .outlook import ha_line

# --- the queues -------------------------------------------------------------------------------------------------


def compare_queues(evidence: Evidence) -> list[tuple[Queue, Queue]]:
    """Return each queue's first and last sample."""
    if len(evidence.queues) < 2:
        return []
    first = {(queue.disk, queue.number): queue for queue in evidence.queues[0]}
    pairs = [(first.get((queue.disk, queue.number)), queue) for queue in evidence.queues[-1]]
    return [(before, after) for before, after in pairs if before is not None]


def has_progress(evidence: Evidence) -> bool:
    """Tell whether any disk request completed between the samples."""
    return any(before.used != after.used for before, after in compare_queues(evidence))


def frozen_disks(evidence: Evidence) -> tuple[int, set[str]]:
    """Return the disks that completed no request, and how many requests wait on them.

    If another queue of the disk completed a request, the disk is slow and not frozen.
    """
    pairs = compare_queues(evidence)
    moving = {after.disk for before, after in pairs if before.used != after.used}
    held = [after for before, after in pairs if before.inuse > 0 and after.inuse > 0 and after.disk not in moving]
    return sum(queue.inuse for queue in held), {queue.disk for queue in held}


# --- the lines ------------------------------------------------------------------------------------


def queue_lines(evidence: Evidence, disks: set[str] | None = None) -> tuple[str, ...]:
    """Return a line for each queue that holds or completed requests. If `disks` is given, leave out all other disks."""
    return tuple(
        f"{after.disk} queue {after.number}: {before.inuse}, then {after.inuse} in flight; "
        f"{(after.used - before.used) % 65536} completed in {evidence.watched:.1f} s"
        for before, after in compare_queues(evidence)
        if (disks is None or after.disk in disks) and (before.used != after.used or after.inuse or after.number == 0)
    )


def cpu_lines(evidence: Evidence) -> tuple[str, ...]:
    """Return the share of a processor that QEMU used, if that is known."""
    if evidence.cpu is None or not evidence.seconds:
        return ()
    return (f"QEMU used {100 * evidence.cpu / evidence.seconds:.0f} % of one processor",)


def thread_lines(evidence: Evidence) -> tuple[str, ...]:
    """Return how many of QEMU's threads are in each state."""
    counts = [f"{letter} {evidence.threads.count(letter)}" for letter in sorted(set(evidence.threads))]
    return (f"QEMU's threads by state: {', '.join(counts)}",) if counts else ()


def lock_lines(evidence: Evidence) -> tuple[str, ...]:
    """Return the VM's lock, its owner, the holders of the lock file, and QEMU's block jobs."""
    lock = (f"lock: {evidence.lock}",) if evidence.lock else ()
    return (*lock, *evidence.lock_owner, *evidence.owners, *(f"block job: {job}" for job in evidence.block_jobs))


def host_lines(evidence: Evidence) -> tuple[str, ...]:
    """Return Proxmox's own facts: HA, and options that wait for a new QEMU."""
    ha = ha_line(evidence.ha, evidence.ha_seen, evidence.ha_dead)
    waiting = f"options that take effect only after a cycle: {', '.join(evidence.pending)}" if evidence.pending else ""
    return (*optional_line(ha), *optional_line(waiting))


def pve_lines(evidence: Evidence) -> tuple[str, ...]:
    """Return the trouble of /etc/pve and its cure."""
    if evidence.quorate is False:
        return _QUORUM_LINES
    return TROUBLES.get(evidence.pve, (f"/etc/pve: {evidence.pve}",)) if evidence.pve else ()


_QUORUM_LINES = (
    "this node has no quorum: /etc/pve is read-only, running VMs continue",
    "by hand: pvecm status; pvecm expected 1 only with proof that the other nodes are off",
)


def storage_lines(evidence: Evidence) -> tuple[str, ...]:
    """Return the dead storages of the VM's own disks and, as a note, the late commands about all storages.

    A storage that gave no answer in time is not called dead here, because a healthy one on a busy host may be as late.
    """
    waits = dict(line.split(": ", 1) for line in evidence.late_storages)
    dead = tuple(
        f"storage {name}, which has disks of this VM, {waits.get(name, 'does not answer')}"
        for name in evidence.dead_storages
    )
    late = ", ".join(evidence.late_commands)
    note = f"no answer in time: {late}; these ask all storages of the host, so this proves nothing about this VM"
    return (*dead, note) if late else dead


def optional_line(line: str) -> tuple[str, ...]:
    """Return a line as a tuple, an empty tuple for an empty line."""
    return (line,) if line else ()


def count_noun(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless the number is 1."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


# --- The two kinds of verdict: one that advises a verb, and one that advises none ---


def advise_verb(evidence: Evidence, code: str, what: str, do: str, verb: str, *proof: str, why: str = "") -> Verdict:
    """Return a verdict that advises `verb`, or names the obstacle that is certain to refuse it.

    A cure on the host that `why` names is not refused, so the verdict names it anyway.
    """
    lines = (*proof, *pve_lines(evidence))
    sentence, cure = f"{what}: {do}", find_cure(why)
    if obstacle := obstacle_to(verb, evidence):
        refused = f"a {verb} would be refused because {obstacle}"
        sentence, verb, why = f"{what}; {refused}", "", why if cure else refused
    return Verdict(code, sentence, verb, lines, why, find_cure(why or sentence))


def advise_nothing(evidence: Evidence, code: str, sentence: str, *proof: str, why: str = "") -> Verdict:
    """Return a verdict that advises no verb."""
    return Verdict(code, sentence, "", (*proof, *pve_lines(evidence)), why, find_cure(why or sentence))
