"""Judges evidence: one sentence that names the fault and the verb that helps, and the lines that prove it. Pure.

A verb is advised only where the evidence names the fault and no known obstacle would refuse it. An idle guest and a
hung one look alike from outside, and the verdict says so instead of guessing.
"""

from dataclasses import replace

from ..jobs.result import SENTENCE_CHARS, Verdict
from ..words import LAST_WORDS, STALE_COPY
from .cures import find_cure
from .evidence import WATCHED_SECONDS, Evidence
from .heartbeat_rule import FRESH, LATE, heartbeat_lines, heartbeat_state
from .leftovers import describe_copy
from .obstacles import DEAD_HA, dead_ha_clause, pve_cure, pve_obstacle
from .proof import advise_nothing, advise_verb, host_lines, lock_lines, optional_line, storage_lines, thread_lines
from .verdict_by_state import judge_running, judge_stopped, judge_storage_hung

# QEMU's RunStates (qapi/run-state.json) in which the guest's processors stand still: (fault, what to do, advised verb).
_STANDING = {
    "internal-error": ("QEMU met an error that it can't emulate and stopped the guest", "reset it", "reset"),
    "guest-panicked": ("the guest's kernel panicked", "look at the console, then reset it", "reset"),
    "watchdog": ("the guest's watchdog ran out and stopped it", "look at the console, then reset it", "reset"),
    "shutdown": ("the guest has shut down, but the VM's QEMU still runs", "power-cycle it", "cycle"),
    "suspended": ("the guest sleeps (suspend to RAM)", "wake it, or reset it and lose unsaved work", ""),
    "debug": ("a debugger holds the guest", "ask who uses the debugger", ""),
}
# Codes of a guest whose kernel log may say why it hangs.
_MAY_SAY_WHY = (
    *("guest-hung", "guest-silent", "guest-starved", "heartbeat-lost", "disk-frozen", "storage-hung", "qemu-wedged"),
    *("qemu-guest-panicked", "qemu-watchdog", "qemu-internal-error", "qemu-io-error"),
)
_LEAST_CHARS = 20  # the least room for last words in a sentence, because a shorter piece of them says nothing
_PAUSED = ("paused", "prelaunch")
_IN_TRANSIT = ("inmigrate", "postmigrate", "finish-migrate", "save-vm", "restore-vm", "colo")


def verdict_of(evidence: Evidence) -> Verdict:
    """Return the verdict on a whole capture.

    The verdict does not depend on the guest's last words, on the statistics before the fault, or on changes. They are
    listed below the proof in this order.
    """
    verdict = _add_last_words(_judge_by_rules(evidence), evidence)
    return replace(verdict, evidence=(*verdict.evidence, *evidence.before, *evidence.changes))


def _add_last_words(verdict: Verdict, evidence: Evidence) -> Verdict:
    if not evidence.cause or verdict.code not in _MAY_SAY_WHY:
        return verdict
    has_room = len(verdict.sentence + LAST_WORDS) <= SENTENCE_CHARS - _LEAST_CHARS
    sentence = verdict.sentence + LAST_WORDS + evidence.cause if has_room else verdict.sentence
    lines = (*verdict.evidence, f"the guest's own last words, which prove nothing: {evidence.cause}")
    return replace(verdict, sentence=sentence, evidence=lines, why=verdict.why or verdict.sentence)


def _judge_by_rules(evidence: Evidence) -> Verdict:
    if evidence.state == "stopped":
        return judge_stopped(evidence)
    if evidence.stale:
        return _judge_stale(evidence)
    if evidence.stuck and evidence.seconds >= WATCHED_SECONDS:
        return judge_storage_hung(evidence, *evidence.stuck)
    if evidence.state == "wedged":
        return _judge_wedged(evidence)
    if evidence.state == "running":
        return judge_running(evidence)
    return _judge_standing(evidence)


def quick_verdict(evidence: Evidence) -> Verdict:
    """Return the verdict on the state alone, for `status`; on a stopped VM it uses the facts of /etc/pve too."""
    if evidence.stale:
        return _judge_stale(evidence)
    if evidence.state == "running":
        return _judge_at_once(evidence)
    if evidence.state == "wedged":
        sentence = "a QEMU process exists but its monitor is silent: collect evidence before a cycle"
        return Verdict("qemu-wedged", sentence, "forensics", (evidence.source,))
    if evidence.state in _PAUSED:
        sentence = (
            f"the VM is {evidence.state}: collect evidence to see whether a task works on it; if none does, start it"
        )
        return Verdict("qemu-paused", sentence, "forensics", (evidence.source,))
    return verdict_of(evidence)


def _judge_at_once(evidence: Evidence) -> Verdict:
    """Judge a running VM by one look at its heartbeat, which may be as old as the VM's last pause."""
    lines = heartbeat_lines(evidence) if evidence.heartbeats else ()
    what, why = "QEMU answers and says running", ""
    if evidence.ha_dead:
        sentence, why = f"{what}, but {dead_ha_clause(evidence)}", DEAD_HA
    elif heartbeat_state(evidence) == FRESH:
        sentence = f"{what}, and {lines[0]}; the guest's programs may hang: collect evidence or look at the console"
        why = f"{lines[0]}; the guest's programs may hang: collect evidence, or look at the console"
    elif heartbeat_state(evidence) == LATE:
        sentence, why = f"{what}, but {lines[0]}: collect evidence", f"{lines[0]}: collect evidence"
    else:
        sentence = f"{what}: collect evidence to see whether the guest hangs"
    return Verdict("qemu-running", sentence, "", (evidence.source, *lines), why, find_cure(why))


def _judge_stale(evidence: Evidence) -> Verdict:
    """Judge a QEMU whose VM is on another node. Even a healthy one may write to disks that are no longer its own."""
    sentence, _, *lines = describe_copy(evidence.vmid, evidence.here, evidence.node, evidence.ha)
    lines += (*optional_line(evidence.source), *thread_lines(evidence), *storage_lines(evidence))
    why = f"a QEMU of this VM still runs on {evidence.here}, but node {evidence.node} has the VM: stop this QEMU first"
    return advise_nothing(evidence, STALE_COPY, sentence, *lines, why=why)


def _judge_wedged(evidence: Evidence) -> Verdict:
    lines = (
        *optional_line(evidence.source),
        *thread_lines(evidence),
        *storage_lines(evidence),
        *lock_lines(evidence),
        *host_lines(evidence),
    )
    if evidence.threads and set(evidence.threads) <= {"T", "t"}:
        do = f"`kill -CONT {evidence.pid}` on the host resumes it; a cycle loses unsaved work"
        why = f"QEMU was stopped by a signal: kill -CONT {evidence.pid} on the host resumes it, and nothing is lost"
        what = "QEMU itself was stopped by a signal"
        return advise_verb(evidence, "qemu-wedged", what, do, "cycle", *lines, why=why)
    what = "a QEMU process exists, its monitor is silent, and"
    if "D" in evidence.threads:
        sentence = f"{what} one of its threads waits in the kernel at times: check the host's storage before a cycle"
        why = "QEMU is silent and a thread of it waits in the kernel: check the host's storage before a power-cycle"
        return advise_nothing(evidence, "qemu-wedged", sentence, *lines, why=why)
    if evidence.dead_storages:
        dead = ", ".join(evidence.dead_storages)
        sentence = f"{what} the storage of its disks does not answer ({dead}): check that storage before a cycle"
        why = f"QEMU is silent, and so is the storage of its disks ({dead}): check that before a power-cycle"
        return advise_nothing(evidence, "qemu-wedged", sentence, *lines, why=why)
    why = "QEMU is silent, and no thread of it waits for storage: power-cycle it"
    what = f"{what} no thread waits for storage"
    return advise_verb(evidence, "qemu-wedged", what, "cycle it", "cycle", *lines, why=why)


def _judge_standing(evidence: Evidence) -> Verdict:
    state, source = evidence.state, optional_line(evidence.source)
    if state == "io-error":
        what, do = "a disk request failed and QEMU paused the guest", "make room or repair the storage, then start"
        lines = (*evidence.disk_errors, *source, *storage_lines(evidence), *lock_lines(evidence))
        why = "".join(f"{error}, so QEMU paused the guest: {do}" for error in evidence.disk_errors[:1])
        return advise_verb(evidence, "qemu-io-error", what, f"{do}; nothing is lost", "start", *lines, why=why)
    if state in _PAUSED:
        return _judge_paused(evidence)
    if state in _IN_TRANSIT:
        sentence = f"a migration or snapshot is under way ({state}): wait for it"
        return advise_nothing(evidence, "in-transit", sentence, *lock_lines(evidence))
    if state in _STANDING:
        what, do, verb = _STANDING[state]
        code, lines = f"qemu-{state}", (*source, *lock_lines(evidence))
        if verb:
            return advise_verb(evidence, code, what, do, verb, *lines)
        return advise_nothing(evidence, code, f"{what}: {do}", *lines)
    qm_line = optional_line(evidence.qm_says and f"qm status says {evidence.qm_says}")
    return advise_nothing(
        evidence, "not-determined", "the host could not tell what state the VM is in", *source, *qm_line
    )


def _judge_paused(evidence: Evidence) -> Verdict:
    state, source = evidence.state, optional_line(evidence.source)
    if evidence.lock == "backup" and evidence.lock_alive is False and not evidence.owners:
        what = f"the VM is {state}, and the backup that left the VM in this state is dead"
        return advise_verb(evidence, "qemu-paused", what, "start continues it", "start", *source, *lock_lines(evidence))
    if evidence.lock or evidence.owners:
        lock = f" ({evidence.lock})" if evidence.lock else ""
        sentence = f"the VM is {state} and a task works on it{lock}: wait for that task"
        return advise_nothing(evidence, "paused-locked", sentence, *lock_lines(evidence))
    if evidence.pve:
        because = f"because {pve_obstacle(evidence)}: {pve_cure(evidence)} first"
        sentence = f"the VM is {state}, and the host can't tell whether a task works on it {because}"
        return advise_nothing(evidence, "qemu-paused", sentence, *source, why=f"a task may work on the VM {because}")
    what = f"the VM is {state} and no task works on it"
    return advise_verb(evidence, "qemu-paused", what, "start continues it", "start", *source)
