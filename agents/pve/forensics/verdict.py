"""Judges evidence: one sentence that names the fault and the verb that helps, and the lines that prove it. Pure.

A verb is advised only where the evidence names the fault and no known obstacle would refuse it. An idle guest and a
hung one look alike from outside, and the verdict says so instead of guessing.
"""

from ..host.process import join_items
from ..jobs.result import Verdict
from .advice import advise_nothing, advise_verb
from .evidence import WATCHED_SECONDS, Evidence
from .obstacles import pve_cure, pve_obstacle
from .proof import host_lines, lock_lines, optional_line, storage_lines, thread_lines
from .verdict_running import judge_running, judge_storage_hung
from .verdict_stopped import judge_stopped

# QEMU's RunStates (qapi/run-state.json) in which the guest's processors stand still: (fault, what to do, advised verb).
_STANDING = {
    "internal-error": ("QEMU met an error that it can't emulate and stopped the guest", "reset it", "reset"),
    "guest-panicked": ("the guest's kernel panicked", "look at the picture, then reset it", "reset"),
    "watchdog": ("the guest's watchdog ran out and stopped it", "look at the picture, then reset it", "reset"),
    "shutdown": ("the guest has shut down and its QEMU is still there", "cycle it", "cycle"),
    "suspended": ("the guest sleeps (suspend to RAM)", "wake it, or reset it and lose what it holds", ""),
    "debug": ("a debugger holds the guest", "ask whose it is", ""),
}
_PAUSED = ("paused", "prelaunch")
_IN_TRANSIT = ("inmigrate", "postmigrate", "finish-migrate", "save-vm", "restore-vm", "colo")


def verdict_of(seen: Evidence) -> Verdict:
    """Return the verdict on a whole capture."""
    if seen.state == "stopped":
        return judge_stopped(seen)
    if seen.stuck and seen.seconds >= WATCHED_SECONDS:
        return judge_storage_hung(seen, *seen.stuck)
    if seen.state == "wedged":
        return _judge_wedged(seen)
    if seen.state == "running":
        return judge_running(seen)
    return _judge_standing(seen)


def quick_verdict(seen: Evidence) -> Verdict:
    """Return the verdict on the state alone, for `status`; on a stopped VM it uses the facts of /etc/pve too."""
    if seen.state == "running":
        sentence = "QEMU answers and says running: take forensics or look at the console to see whether the guest hangs"
        return Verdict("running", sentence, "", (seen.source,))
    if seen.state == "wedged":
        sentence = "a QEMU process exists but its monitor is silent: take forensics before a cycle"
        return Verdict("qemu-wedged", sentence, "forensics", (seen.source,))
    if seen.state in _PAUSED:
        sentence = f"the VM is {seen.state}: take forensics to see whether a task works on it; if none does, start it"
        return Verdict("paused", sentence, "forensics", (seen.source,))
    return verdict_of(seen)


def _judge_wedged(seen: Evidence) -> Verdict:
    lines = (
        *optional_line(seen.source),
        *thread_lines(seen),
        *storage_lines(seen),
        *lock_lines(seen),
        *host_lines(seen),
    )
    if seen.threads and set(seen.threads) <= {"T", "t"}:
        do = f"`kill -CONT {seen.pid}` on the host resumes it; a cycle loses unsaved work"
        return advise_verb(seen, "qemu-wedged", "QEMU itself was stopped by a signal", do, "cycle", *lines)
    what = "a QEMU process exists, its monitor is silent, and"
    if "D" in seen.threads:
        sentence = f"{what} one of its threads waits in the kernel at times: check the host's storage before a cycle"
        return advise_nothing(seen, "qemu-wedged", sentence, *lines)
    if seen.dead_storages:
        dead = join_items(seen.dead_storages)
        sentence = f"{what} the storage of its disks does not answer ({dead}): check that storage before a cycle"
        return advise_nothing(seen, "qemu-wedged", sentence, *lines)
    return advise_verb(seen, "qemu-wedged", f"{what} no thread waits for storage", "cycle it", "cycle", *lines)


def _judge_standing(seen: Evidence) -> Verdict:
    state, source = seen.state, optional_line(seen.source)
    if state == "io-error":
        what, do = "a disk request failed and QEMU paused the guest", "make room or mend the storage, then start"
        lines = (*seen.disk_errors, *source, *storage_lines(seen), *lock_lines(seen))
        return advise_verb(seen, "io-error", what, f"{do}; nothing is lost", "start", *lines)
    if state in _PAUSED:
        return _judge_paused(seen)
    if state in _IN_TRANSIT:
        sentence = f"a migration or snapshot is under way ({state}): wait for it"
        return advise_nothing(seen, "in-transit", sentence, *lock_lines(seen))
    if state in _STANDING:
        what, do, verb = _STANDING[state]
        lines = (*source, *lock_lines(seen))
        if verb:
            return advise_verb(seen, state, what, do, verb, *lines)
        return advise_nothing(seen, state, f"{what}: {do}", *lines)
    said = (f"qm status says {seen.qm_says}",) if seen.qm_says else ()
    return advise_nothing(seen, "unknown", "the host could not tell what state the VM is in", *source, *said)


def _judge_paused(seen: Evidence) -> Verdict:
    state, source = seen.state, optional_line(seen.source)
    if seen.lock == "backup" and seen.lock_alive is False and not seen.owners:
        what = f"the VM is {state}, and the backup that left it so is dead"
        return advise_verb(seen, "paused", what, "start continues it", "start", *source, *lock_lines(seen))
    if seen.lock or seen.owners:
        lock = f" ({seen.lock})" if seen.lock else ""
        sentence = f"the VM is {state} and a task works on it{lock}: wait for that task"
        return advise_nothing(seen, "paused-locked", sentence, *lock_lines(seen))
    if seen.pve:
        why = f"because {pve_obstacle(seen)}: {pve_cure(seen)} first"
        sentence = f"the VM is {state}, and the host can't tell whether a task works on it {why}"
        return advise_nothing(seen, "paused", sentence, *source)
    what = f"the VM is {state} and no task works on it"
    return advise_verb(seen, "paused", what, "start continues it", "start", *source)
