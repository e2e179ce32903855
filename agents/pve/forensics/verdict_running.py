"""The verdict on a VM whose QEMU answers and says running. Pure."""

from ..jobs.result import Verdict
from .advice import advise_nothing, advise_verb
from .evidence import WATCHED_SECONDS, Evidence
from .obstacles import dead_ha_clause, pve_cure, pve_obstacle
from .proof import (
    compare_queues,
    count_noun,
    cpu_lines,
    frozen_disks,
    has_progress,
    host_lines,
    lock_lines,
    optional_line,
    queue_lines,
    storage_lines,
    thread_lines,
)

_WELL = ("healthy", "guest-silent")  # codes that give way to the trouble of /etc/pve, and to a dead HA
_LOOK = "an idle guest looks the same as a hung one, so look at the console"


def judge_running(evidence: Evidence) -> Verdict:
    """Return the verdict on a running VM, by its disk requests and its guest agent."""
    held, disks = frozen_disks(evidence)
    if held:
        return _judge_requests(evidence, held, disks)
    verdict = _judge_no_requests(evidence)
    what, away = verdict.sentence.partition(":")[0], pve_obstacle(evidence)
    if verdict.code in _WELL and away:
        sentence = f"{what}; a cycle would be refused because {away}: {pve_cure(evidence)}"
        return Verdict(evidence.pve or "no-quorum", sentence, "", verdict.evidence)
    if verdict.code in _WELL and evidence.ha_dead:
        return Verdict("ha-stuck", f"{what}, but {dead_ha_clause(evidence)}", "", verdict.evidence)
    return verdict


def _judge_requests(evidence: Evidence, held: int, disks: set[str]) -> Verdict:
    """Judge disks that completed none of their requests in flight."""
    lines = (*queue_lines(evidence, disks), *storage_lines(evidence), *lock_lines(evidence), *host_lines(evidence))
    if evidence.watched < WATCHED_SECONDS:
        sentence = (
            f"QEMU answers with {count_noun(held, 'disk request')} in flight; {evidence.watched:.1f} s is too short to "
            "tell a slow disk from a frozen one: take forensics"
        )
        return advise_nothing(evidence, "guest-silent", sentence, *lines)
    if evidence.dead_storages:
        return judge_storage_hung(evidence, *lines)
    none = "it has not completed" if held == 1 else "none completed"
    what = (
        f"QEMU answers, {count_noun(held, 'disk request')} {'is' if held == 1 else 'are'} in flight and {none} in "
        f"{evidence.watched:.0f} s"
    )
    return advise_verb(evidence, "disk-frozen", what, "a reset will not help, cycle it", "cycle", *lines)


def judge_storage_hung(evidence: Evidence, *proof: str) -> Verdict:
    """Return the verdict that the VM's storage hangs, which forbids every verb that ends QEMU."""
    sentence = (
        "the VM's storage does not answer: mend the storage first; don't reset or cycle, because QEMU can't end and no "
        "start can follow until it answers"
    )
    lines = (*proof, *storage_lines(evidence), *optional_line(evidence.source), *thread_lines(evidence))
    return advise_nothing(evidence, "storage-hung", sentence, *lines)


def _judge_no_requests(evidence: Evidence) -> Verdict:
    proof = (
        *queue_lines(evidence),
        *cpu_lines(evidence),
        *storage_lines(evidence),
        *lock_lines(evidence),
        *host_lines(evidence),
    )
    if evidence.agent == "frozen":
        return _judge_frozen(evidence, *proof)
    if evidence.agent == "answers":
        return advise_nothing(
            evidence, "healthy", "QEMU and the guest agent answer: nothing is wrong from here", *proof
        )
    if evidence.agent == "silent" and has_progress(evidence) and _is_backed_up(evidence):
        sentence = (
            "QEMU and its disks answer, but the guest agent does not, as when a backup freezes its file systems: look "
            "again in a minute"
        )
        return advise_nothing(evidence, "guest-silent", sentence, *proof)
    if evidence.agent == "silent" and has_progress(evidence):
        what = "QEMU answers and disk requests complete, but the guest agent does not"
        return advise_verb(evidence, "guest-hung", what, "try ssh, then reset it", "reset", *proof)
    if has_progress(evidence):
        return advise_nothing(
            evidence, "healthy", "QEMU answers and disk requests complete: nothing is wrong from here", *proof
        )
    return advise_nothing(evidence, "guest-silent", _silence_sentence(evidence), *proof)


def _is_backed_up(evidence: Evidence) -> bool:
    return evidence.lock == "backup" and evidence.lock_alive is not False


def _judge_frozen(evidence: Evidence, *proof: str) -> Verdict:
    """Judge a guest whose agent has frozen its file systems, as a backup does for a moment, or for good if it dies."""
    what = "the guest's file systems are frozen, so each service that writes waits"
    thaw = f"qm guest cmd {evidence.vmid} fsfreeze-thaw"
    do = f"nothing is lost; run {thaw}"
    if _is_backed_up(evidence):
        do = f"a backup does that for a moment, so look again in a minute; if it lasts, run {thaw}"
    return advise_nothing(evidence, "guest-frozen", f"{what}; {do}", f"by hand: {thaw}", *proof)


def _silence_sentence(evidence: Evidence) -> str:
    if not compare_queues(evidence):
        return f"QEMU answers; its disks can't be watched (not virtio): {_LOOK}"
    agent = "; the guest agent does not answer" if evidence.agent == "silent" else ""
    return f"QEMU answers and no disk request is waiting{agent}: {_LOOK}"
