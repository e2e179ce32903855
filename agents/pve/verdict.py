"""From evidence to one sentence: what is wrong, which verb helps, and the lines that prove it. Pure.

A verb is advised only where the evidence names the fault. An idle guest and a hung one look alike from outside, and
the verdict says so instead of guessing.
"""

from .evidence import Evidence
from .ha import ha_stuck
from .proof import (
    compared,
    counted,
    cpu_lines,
    frozen_disks,
    host_lines,
    known_line,
    listed,
    lock_lines,
    moved,
    queue_lines,
    thread_lines,
)
from .result import Verdict

# QEMU's RunState words (qapi/run-state.json) in which the guest's processors stand still: (sentence, advised verb).
_STANDING = {
    "internal-error": ("QEMU met an error that it can't emulate and stopped the guest: reset it", "reset"),
    "guest-panicked": ("the guest's kernel panicked: look at the picture, then reset it", "reset"),
    "watchdog": ("the guest's watchdog ran out and stopped it: look at the picture, then reset it", "reset"),
    "shutdown": ("the guest has shut down and its QEMU is still there: cycle it", "cycle"),
    "suspended": ("the guest sleeps (suspend to RAM): wake it, or reset it and lose what it holds", ""),
    "debug": ("a debugger holds the guest; ask whose it is", ""),
}
_PAUSED = ("paused", "prelaunch")
_WATCHED_SECONDS = 1.5  # a healthy disk may be silent for less, as in the short look that a verb takes before it acts
_IN_TRANSIT = ("inmigrate", "postmigrate", "finish-migrate", "save-vm", "restore-vm", "colo")


def verdict_of(seen: Evidence) -> Verdict:
    """Return the verdict on a whole capture."""
    if seen.state == "stopped":
        return _on_stopped(seen)
    if seen.stuck and seen.seconds >= _WATCHED_SECONDS:
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
        sentence = f"the VM is {seen.state}; whether a task keeps it so, forensics tells; else start lets it go on"
        return Verdict("paused", sentence, "forensics", (seen.source,))
    return verdict_of(seen)


def _on_stopped(seen: Evidence) -> Verdict:
    if seen.leftovers:
        sentence = (
            f"the VM is stopped and {counted(len(seen.leftovers), 'process')} of it did not end: a start would block; "
            "mend the host's storage, else reboot the host"
        )
        return Verdict("leftover", sentence, "", (f"left in the VM's scope: {listed(seen.leftovers)}",))
    if seen.node:
        sentence = f"the VM is on node {seen.node} now and not on this one: look there"
        return Verdict("other-node", sentence, "", (f"/etc/pve/.vmlist names {seen.node}", *known_line(seen.source)))
    if ha_stuck(seen.ha, seen.ha_seen):
        sentence = f"the VM is stopped and HA has it in state {seen.ha_seen}: HA has to let go before a start"
        return Verdict("ha-stuck", sentence, "", (*host_lines(seen), *lock_lines(seen)))
    if seen.lock == "suspended" and not seen.owners:
        sentence = "the VM was put to sleep on disk: start takes it up where it was"
        return Verdict("stopped", sentence, "start", (*lock_lines(seen), *host_lines(seen)))
    if seen.lock or seen.owners:
        return Verdict("stopped-locked", _locked_sentence(seen), "", (*lock_lines(seen), *host_lines(seen)))
    return Verdict("stopped", "the VM is stopped: start it", "start", (*known_line(seen.source), *host_lines(seen)))


def _locked_sentence(seen: Evidence) -> str:
    if seen.lock and seen.lock_alive is False and not seen.owners:
        return f"the VM is stopped and locked ({seen.lock}) by a task that is dead: unlock it by hand, then start"
    held = f"locked ({seen.lock})" if seen.lock else "being worked on"
    return f"the VM is stopped and {held}: see who works on it before a start"


def _on_wedged(seen: Evidence) -> Verdict:
    if seen.threads and set(seen.threads) <= {"T", "t"}:
        sentence = "QEMU itself was stopped by a signal: `kill -CONT` lets it go on where it was, a cycle ends it"
    elif "D" in seen.threads:
        sentence = (
            "a QEMU process is there, its monitor is silent, and a thread waits uninterruptibly now and then: look at "
            "the host's storage before a cycle"
        )
        return Verdict("qemu-wedged", sentence, "", (*known_line(seen.source), *thread_lines(seen), *host_lines(seen)))
    else:
        sentence = "a QEMU process is there, its monitor is silent, and no thread waits for storage: cycle it"
    return Verdict("qemu-wedged", sentence, "cycle", (*known_line(seen.source), *thread_lines(seen), *host_lines(seen)))


def _storage_hung(seen: Evidence, *proof: str) -> Verdict:
    sentence = (
        "the host's storage does not answer: don't cycle, QEMU could not end and a start would block; mend the storage"
    )
    return Verdict("storage-hung", sentence, "", (*proof, *known_line(seen.source), *thread_lines(seen)))


def _on_standing(seen: Evidence) -> Verdict:
    state, source = seen.state, known_line(seen.source)
    if state == "io-error":
        sentence = "a disk request failed and QEMU paused the guest: make room or mend the storage, then start"
        return Verdict("io-error", f"{sentence}; nothing is lost", "start", (*seen.disk_errors, *source))
    if state in _PAUSED and seen.lock == "backup" and seen.lock_alive is False and not seen.owners:
        sentence = f"the VM is {state}, and the backup that left it so is dead: start lets it go on"
        return Verdict("paused", sentence, "start", (*source, *lock_lines(seen)))
    if state in _PAUSED and (seen.lock or seen.owners):
        lock = f" ({seen.lock})" if seen.lock else ""
        sentence = f"the VM is {state} and a task works on it{lock}: wait for that task"
        return Verdict("paused-locked", sentence, "", lock_lines(seen))
    if state in _PAUSED:
        return Verdict("paused", f"the VM is {state} and no task works on it: start lets it go on", "start", source)
    if state in _IN_TRANSIT:
        sentence = f"a migration or snapshot is under way ({state}): wait for it"
        return Verdict("in-transit", sentence, "", lock_lines(seen))
    if state in _STANDING:
        sentence, advice = _STANDING[state]
        return Verdict(state, sentence, advice, source)
    said = (f"qm status says {seen.qm_says}",) if seen.qm_says else ()
    return Verdict("unknown", "the host could not tell what state the VM is in", "", (*source, *said))


def _on_running(seen: Evidence) -> Verdict:
    held, disks = frozen_disks(seen)
    if held and seen.seconds < _WATCHED_SECONDS:
        sentence = (
            f"QEMU answers, {counted(held, 'disk request')} in flight; {seen.seconds:.1f} s are too short to tell a "
            "slow disk from a frozen one: forensics tells"
        )
        return Verdict("guest-silent", sentence, "", (*queue_lines(seen, disks), *lock_lines(seen)))
    if held:
        lines = (*queue_lines(seen, disks), *lock_lines(seen), *host_lines(seen))
        if seen.silent_storage:
            return _storage_hung(seen, f"no answer in time: {listed(seen.silent_storage)}", *lines)
        none = "it has not completed" if held == 1 else "none completed"
        sentence = (
            f"QEMU answers, {counted(held, 'disk request')} {'is' if held == 1 else 'are'} in flight and {none} in "
            f"{seen.seconds:.0f} s: a reset will not help, cycle it"
        )
        return Verdict("disk-frozen", sentence, "cycle", lines)
    proof = (*queue_lines(seen), *cpu_lines(seen), *lock_lines(seen), *host_lines(seen))
    if seen.agent == "answers":
        return Verdict("healthy", "QEMU and the guest agent answer: nothing is wrong from here", "", proof)
    if seen.agent == "silent" and moved(seen) and seen.lock == "backup" and seen.lock_alive is not False:
        sentence = (
            "QEMU answers and disk requests complete, but the guest agent does not, as when a backup freezes the "
            "guest's file systems: look again in a minute"
        )
        return Verdict("guest-silent", sentence, "", proof)
    if seen.agent == "silent" and moved(seen):
        sentence = "QEMU answers and disk requests complete, but the guest agent does not: try ssh, then reset it"
        return Verdict("guest-hung", sentence, "reset", proof)
    if moved(seen):
        return Verdict("healthy", "QEMU answers and disk requests complete: nothing is wrong from here", "", proof)
    return Verdict("guest-silent", _silence(seen), "", proof)


def _silence(seen: Evidence) -> str:
    if not compared(seen):
        return "QEMU answers; its disks can't be watched (not virtio): idle and hung look alike here, see the console"
    agent = "; the guest agent does not answer" if seen.agent == "silent" else ""
    return f"QEMU answers and no disk request is waiting{agent}: idle and hung look alike here, see the console"
