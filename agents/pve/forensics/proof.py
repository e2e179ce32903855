"""The lines that prove a verdict, and the comparison of the disks' queues behind them. Pure."""

from ..host.process import join_items
from .evidence import Evidence, Queue
from .obstacles import TROUBLES
from .outlook import ha_line

# --- the queues -------------------------------------------------------------------------------------------------


def compare_queues(seen: Evidence) -> list[tuple[Queue, Queue]]:
    """Return each queue's first and last sample."""
    if len(seen.queues) < 2:
        return []
    first = {(queue.disk, queue.number): queue for queue in seen.queues[0]}
    pairs = [(first.get((queue.disk, queue.number)), queue) for queue in seen.queues[-1]]
    return [(before, after) for before, after in pairs if before is not None]


def has_progress(seen: Evidence) -> bool:
    """Tell whether any disk request completed between the samples."""
    return any(before.used != after.used for before, after in compare_queues(seen))


def frozen_disks(seen: Evidence) -> tuple[int, set[str]]:
    """Return how many requests wait on disks that completed none, and those disks.

    A disk whose other queue completed a request is slow and not frozen.
    """
    pairs = compare_queues(seen)
    moving = {after.disk for before, after in pairs if before.used != after.used}
    held = [after for before, after in pairs if before.inuse > 0 and after.inuse > 0 and after.disk not in moving]
    return sum(queue.inuse for queue in held), {queue.disk for queue in held}


# --- the lines ------------------------------------------------------------------------------------


def queue_lines(seen: Evidence, disks: set[str] | None = None) -> tuple[str, ...]:
    """Return a line for each queue that has requests or moved, of these disks alone where they are given."""
    return tuple(
        f"{after.disk} queue {after.number}: {before.inuse}, then {after.inuse} in flight; "
        f"{(after.used - before.used) % 65536} completed in {seen.watched:.1f} s"
        for before, after in compare_queues(seen)
        if (disks is None or after.disk in disks) and (before.used != after.used or after.inuse or after.number == 0)
    )


def cpu_lines(seen: Evidence) -> tuple[str, ...]:
    """Return the share of a processor that QEMU used, where it is known."""
    if seen.cpu is None or not seen.seconds:
        return ()
    return (f"QEMU used {100 * seen.cpu / seen.seconds:.0f} % of one processor",)


def thread_lines(seen: Evidence) -> tuple[str, ...]:
    """Return how many of QEMU's threads are in each state."""
    counts = [f"{letter} {seen.threads.count(letter)}" for letter in sorted(set(seen.threads))]
    return (f"QEMU's threads by state: {', '.join(counts)}",) if counts else ()


def lock_lines(seen: Evidence) -> tuple[str, ...]:
    """Return the VM's lock, its owner, the holders of the lock file, and QEMU's block jobs."""
    lock = (f"lock: {seen.lock}",) if seen.lock else ()
    return (*lock, *seen.lock_owner, *seen.owners, *(f"block job: {job}" for job in seen.block_jobs))


def host_lines(seen: Evidence) -> tuple[str, ...]:
    """Return Proxmox's own facts: HA, options that wait for a new QEMU, how long no disk was written."""
    ha = ha_line(seen.ha, seen.ha_seen)
    waiting = f"options that take effect only after a cycle: {join_items(seen.pending)}" if seen.pending else ""
    quiet = f"Proxmox's statistics show no disk write for {seen.quiet_minutes} min" if seen.quiet_minutes else ""
    return tuple(line for line in (ha, waiting, quiet) if line)


def pve_lines(seen: Evidence) -> tuple[str, ...]:
    """Return the trouble of /etc/pve and its cure."""
    if seen.quorate is False:
        return _QUORUM_LINES
    return TROUBLES.get(seen.pve, (f"/etc/pve: {seen.pve}",)) if seen.pve else ()


_QUORUM_LINES = (
    "this node has no quorum: /etc/pve is read-only, running VMs continue",
    "by hand: pvecm status; pvecm expected 1 only with proof that the other nodes are off",
)


def storage_lines(seen: Evidence) -> tuple[str, ...]:
    """Return the dead storages of the VM's own disks and, as a note, the late commands about all storages."""
    dead = tuple(f"storage {name}, which has disks of this VM, does not answer" for name in seen.dead_storages)
    late = join_items(seen.late_commands)
    note = f"no answer in time: {late}; they ask all storages of the host, so this proves nothing about this VM"
    return (*dead, note) if late else dead


def optional_line(line: str) -> tuple[str, ...]:
    """Return a line as a tuple, an empty tuple for an empty line."""
    return (line,) if line else ()


def count_noun(number: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless the number is 1."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"
