"""From evidence to one sentence: what is wrong, which verb helps, and the lines that prove it. Pure.

A verb is advised only where the evidence names the fault and nothing is known that would refuse it. An idle guest and a
hung one look alike from outside, and the verdict says so instead of guessing.
"""

from ..host.ha import ha_stuck
from ..host.process import join_items, leftover_lines
from ..jobs.result import Verdict
from .evidence import WATCHED_SECONDS, Evidence
from .obstacles import obstacle_to, pve_cure, pve_obstacle
from .proof import (
    compare_queues,
    count_noun,
    cpu_lines,
    frozen_disks,
    has_progress,
    host_lines,
    lock_lines,
    optional_line,
    pve_lines,
    queue_lines,
    storage_lines,
    thread_lines,
)

# QEMU's RunState words (qapi/run-state.json) in which the guest's processors stand still: (what is so, what to do,
# advised verb).
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
_WELL = ("healthy", "guest-silent")  # codes that give way to the name of what /etc/pve lacks


def verdict_of(seen: Evidence) -> Verdict:
    """Return the verdict on a whole capture."""
    if seen.state == "stopped":
        return _on_stopped(seen)
    if seen.stuck and seen.seconds >= WATCHED_SECONDS:
        return _storage_hung(seen, *seen.stuck)
    if seen.state == "wedged":
        return _on_wedged(seen)
    if seen.state == "running":
        return _on_running(seen)
    return _on_standing(seen)


def quick_verdict(seen: Evidence) -> Verdict:
    """Return what the state alone says, for `status`; of a stopped VM also what /etc/pve knows of it."""
    if seen.state == "running":
        sentence = "QEMU answers and says running; whether the guest hangs, forensics and the console tell"
        return Verdict("running", sentence, "", (seen.source,))
    if seen.state == "wedged":
        sentence = "a QEMU process is there and its monitor is silent: take forensics before a cycle"
        return Verdict("qemu-wedged", sentence, "forensics", (seen.source,))
    if seen.state in _PAUSED:
        sentence = f"the VM is {seen.state}: take forensics to see whether a task keeps it so; if none does, start it"
        return Verdict("paused", sentence, "forensics", (seen.source,))
    return verdict_of(seen)


def _advise(seen: Evidence, code: str, what: str, do: str, verb: str, *evidence: str) -> Verdict:
    """Return a verdict that advises `verb`; where that is certain to be refused, one that says what to mend first."""
    lines = (*evidence, *pve_lines(seen))
    if obstacle := obstacle_to(verb, seen):
        return Verdict(code, f"{what}; a {verb} would be refused because {obstacle}", "", lines)
    return Verdict(code, f"{what}: {do}", verb, lines)


def _observe_only(seen: Evidence, code: str, sentence: str, *evidence: str) -> Verdict:
    """Return a verdict that advises nothing."""
    return Verdict(code, sentence, "", (*evidence, *pve_lines(seen)))


def _on_stopped(seen: Evidence) -> Verdict:
    known, about = optional_line(seen.source), (*lock_lines(seen), *host_lines(seen))
    if seen.leftovers:
        return _leftover(seen)
    if seen.node:
        sentence = f"the VM is on node {seen.node} now and not on this one: look there"
        return _observe_only(seen, "other-node", sentence, f"/etc/pve/.vmlist names {seen.node}", *known)
    if away := pve_obstacle(seen):
        code = seen.pve or "no-quorum"
        sentence = f"the VM is stopped, and a start would be refused because {away}: {pve_cure(seen)} first"
        return _observe_only(seen, code, sentence, *about)
    if seen.config is False:
        return _observe_only(seen, "no-config", "the VM is stopped and has no configuration on any node", *known)
    if ha_stuck(seen.ha, seen.ha_seen):
        sentence = f"the VM is stopped and HA has it in state {seen.ha_seen}: HA has to let go before a start"
        return _observe_only(seen, "ha-stuck", sentence, *host_lines(seen), *lock_lines(seen))
    if seen.lock == "suspended" and not seen.owners:
        return _advise(seen, "stopped", "the VM is suspended to disk", "start resumes it", "start", *about)
    if seen.lock or seen.owners:
        return _observe_only(seen, "stopped-locked", _locked_sentence(seen), *about)
    return _advise(seen, "stopped", "the VM is stopped", "start it", "start", *known, *host_lines(seen))


def _leftover(seen: Evidence) -> Verdict:
    """Only what waits in the kernel needs the storage; anything else can be killed."""
    left = count_noun(len(seen.leftovers), "process")
    if not seen.remains or any(", state D" in line for line in seen.remains):
        cure = "mend the host's storage, or reboot the host if you can't"
    else:
        cure = f"kill {'it' if len(seen.leftovers) == 1 else 'them'} by hand first"
    sentence = f"the VM is stopped and {left} of it did not end, so a start would fail: {cure}"
    return _observe_only(seen, "leftover", sentence, *leftover_lines(seen.leftovers, seen.remains))


def _locked_sentence(seen: Evidence) -> str:
    if seen.owners:
        return "the VM is stopped and being worked on: see who works on it before a start"
    if seen.lock_alive is False:
        return f"the VM is stopped and locked ({seen.lock}) by a task that is dead: unlock it by hand, then start"
    return f"the VM is stopped and locked ({seen.lock}): see who works on it before a start"


def _on_wedged(seen: Evidence) -> Verdict:
    lines = (
        *optional_line(seen.source),
        *thread_lines(seen),
        *storage_lines(seen),
        *lock_lines(seen),
        *host_lines(seen),
    )
    if seen.threads and set(seen.threads) <= {"T", "t"}:
        do = f"`kill -CONT {seen.pid}` on the host resumes it; a cycle loses unsaved work"
        return _advise(seen, "qemu-wedged", "QEMU itself was stopped by a signal", do, "cycle", *lines)
    what = "a QEMU process is there, its monitor is silent, and"
    if "D" in seen.threads:
        sentence = f"{what} a thread waits uninterruptibly now and then: look at the host's storage before a cycle"
        return _observe_only(seen, "qemu-wedged", sentence, *lines)
    if seen.dead_storages:
        dead = join_items(seen.dead_storages)
        sentence = f"{what} its disks' storage does not answer ({dead}): look at that before a cycle"
        return _observe_only(seen, "qemu-wedged", sentence, *lines)
    return _advise(seen, "qemu-wedged", f"{what} no thread waits for storage", "cycle it", "cycle", *lines)


def _storage_hung(seen: Evidence, *proof: str) -> Verdict:
    sentence = (
        "the VM's storage does not answer: mend the storage first; don't reset or cycle, because QEMU can't end and no "
        "start can follow until it answers"
    )
    lines = (*proof, *storage_lines(seen), *optional_line(seen.source), *thread_lines(seen))
    return _observe_only(seen, "storage-hung", sentence, *lines)


def _on_standing(seen: Evidence) -> Verdict:
    state, source = seen.state, optional_line(seen.source)
    if state == "io-error":
        what, do = "a disk request failed and QEMU paused the guest", "make room or mend the storage, then start"
        lines = (*seen.disk_errors, *source, *storage_lines(seen), *lock_lines(seen))
        return _advise(seen, "io-error", what, f"{do}; nothing is lost", "start", *lines)
    if state in _PAUSED:
        return _on_paused(seen)
    if state in _IN_TRANSIT:
        sentence = f"a migration or snapshot is under way ({state}): wait for it"
        return _observe_only(seen, "in-transit", sentence, *lock_lines(seen))
    if state in _STANDING:
        what, do, verb = _STANDING[state]
        lines = (*source, *lock_lines(seen))
        return (
            _advise(seen, state, what, do, verb, *lines)
            if verb
            else _observe_only(seen, state, f"{what}: {do}", *lines)
        )
    said = (f"qm status says {seen.qm_says}",) if seen.qm_says else ()
    return _observe_only(seen, "unknown", "the host could not tell what state the VM is in", *source, *said)


def _on_paused(seen: Evidence) -> Verdict:
    state, source = seen.state, optional_line(seen.source)
    if seen.lock == "backup" and seen.lock_alive is False and not seen.owners:
        what = f"the VM is {state}, and the backup that left it so is dead"
        return _advise(seen, "paused", what, "start lets it go on", "start", *source, *lock_lines(seen))
    if seen.lock or seen.owners:
        lock = f" ({seen.lock})" if seen.lock else ""
        sentence = f"the VM is {state} and a task works on it{lock}: wait for that task"
        return _observe_only(seen, "paused-locked", sentence, *lock_lines(seen))
    if seen.pve:
        why = f"because {pve_obstacle(seen)}: {pve_cure(seen)} first"
        sentence = f"the VM is {state}; whether a task keeps it so can't be told {why}"
        return _observe_only(seen, "paused", sentence, *source)
    what = f"the VM is {state} and no task works on it"
    return _advise(seen, "paused", what, "start lets it go on", "start", *source)


def _on_running(seen: Evidence) -> Verdict:
    held, disks = frozen_disks(seen)
    if held:
        return _with_requests(seen, held, disks)
    verdict = _without_requests(seen)
    away = pve_obstacle(seen)
    if not away or verdict.code not in _WELL:
        return verdict
    what = verdict.sentence.partition(":")[0]
    sentence = f"{what}; a cycle would be refused because {away}: {pve_cure(seen)}"
    return Verdict(seen.pve or "no-quorum", sentence, "", verdict.evidence)


def _with_requests(seen: Evidence, held: int, disks: set[str]) -> Verdict:
    """Judge a disk that completed no request of those in flight."""
    lines = (*queue_lines(seen, disks), *storage_lines(seen), *lock_lines(seen), *host_lines(seen))
    if seen.watched < WATCHED_SECONDS:
        sentence = (
            f"QEMU answers with {count_noun(held, 'disk request')} in flight; {seen.watched:.1f} s is too short to "
            "tell a slow disk from a frozen one: take forensics"
        )
        return _observe_only(seen, "guest-silent", sentence, *lines)
    if seen.dead_storages:
        return _storage_hung(seen, *lines)
    none = "it has not completed" if held == 1 else "none completed"
    what = (
        f"QEMU answers, {count_noun(held, 'disk request')} {'is' if held == 1 else 'are'} in flight and {none} in "
        f"{seen.watched:.0f} s"
    )
    return _advise(seen, "disk-frozen", what, "a reset will not help, cycle it", "cycle", *lines)


def _without_requests(seen: Evidence) -> Verdict:
    proof = (*queue_lines(seen), *cpu_lines(seen), *storage_lines(seen), *lock_lines(seen), *host_lines(seen))
    if seen.agent == "answers":
        return _observe_only(seen, "healthy", "QEMU and the guest agent answer: nothing is wrong from here", *proof)
    if seen.agent == "silent" and has_progress(seen) and seen.lock == "backup" and seen.lock_alive is not False:
        sentence = (
            "QEMU and its disks answer, but the guest agent does not, as when a backup freezes its file systems: look "
            "again in a minute"
        )
        return _observe_only(seen, "guest-silent", sentence, *proof)
    if seen.agent == "silent" and has_progress(seen):
        what = "QEMU answers and disk requests complete, but the guest agent does not"
        return _advise(seen, "guest-hung", what, "try ssh, then reset it", "reset", *proof)
    if has_progress(seen):
        return _observe_only(
            seen, "healthy", "QEMU answers and disk requests complete: nothing is wrong from here", *proof
        )
    return _observe_only(seen, "guest-silent", _silence(seen), *proof)


def _silence(seen: Evidence) -> str:
    if not compare_queues(seen):
        return "QEMU answers; its disks can't be watched (not virtio): idle and hung look alike here, see the console"
    agent = "; the guest agent does not answer" if seen.agent == "silent" else ""
    return f"QEMU answers and no disk request is waiting{agent}: idle and hung look alike here, see the console"
