"""The verdict on a VM whose QEMU answers and says running. Pure."""

from ..jobs.result import Verdict
from .advice import advise_nothing, advise_verb
from .evidence import WATCHED_SECONDS, Evidence
from .obstacles import pve_cure, pve_obstacle
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

_WELL = ("healthy", "guest-silent")  # codes that give way to the trouble of /etc/pve
_LOOK = "an idle guest looks the same as a hung one, so look at the console"


def judge_running(seen: Evidence) -> Verdict:
    """Return the verdict on a running VM, by its disk requests and its guest agent."""
    held, disks = frozen_disks(seen)
    if held:
        return _judge_requests(seen, held, disks)
    verdict = _judge_no_requests(seen)
    away = pve_obstacle(seen)
    if not away or verdict.code not in _WELL:
        return verdict
    what = verdict.sentence.partition(":")[0]
    sentence = f"{what}; a cycle would be refused because {away}: {pve_cure(seen)}"
    return Verdict(seen.pve or "no-quorum", sentence, "", verdict.evidence)


def _judge_requests(seen: Evidence, held: int, disks: set[str]) -> Verdict:
    """Judge disks that completed none of their requests in flight."""
    lines = (*queue_lines(seen, disks), *storage_lines(seen), *lock_lines(seen), *host_lines(seen))
    if seen.watched < WATCHED_SECONDS:
        sentence = (
            f"QEMU answers with {count_noun(held, 'disk request')} in flight; {seen.watched:.1f} s is too short to "
            "tell a slow disk from a frozen one: take forensics"
        )
        return advise_nothing(seen, "guest-silent", sentence, *lines)
    if seen.dead_storages:
        return judge_storage_hung(seen, *lines)
    none = "it has not completed" if held == 1 else "none completed"
    what = (
        f"QEMU answers, {count_noun(held, 'disk request')} {'is' if held == 1 else 'are'} in flight and {none} in "
        f"{seen.watched:.0f} s"
    )
    return advise_verb(seen, "disk-frozen", what, "a reset will not help, cycle it", "cycle", *lines)


def judge_storage_hung(seen: Evidence, *proof: str) -> Verdict:
    """Return the verdict that the VM's storage hangs, which forbids every verb that ends QEMU."""
    sentence = (
        "the VM's storage does not answer: mend the storage first; don't reset or cycle, because QEMU can't end and no "
        "start can follow until it answers"
    )
    lines = (*proof, *storage_lines(seen), *optional_line(seen.source), *thread_lines(seen))
    return advise_nothing(seen, "storage-hung", sentence, *lines)


def _judge_no_requests(seen: Evidence) -> Verdict:
    proof = (*queue_lines(seen), *cpu_lines(seen), *storage_lines(seen), *lock_lines(seen), *host_lines(seen))
    if seen.agent == "answers":
        return advise_nothing(seen, "healthy", "QEMU and the guest agent answer: nothing is wrong from here", *proof)
    if seen.agent == "silent" and has_progress(seen) and seen.lock == "backup" and seen.lock_alive is not False:
        sentence = (
            "QEMU and its disks answer, but the guest agent does not, as when a backup freezes its file systems: look "
            "again in a minute"
        )
        return advise_nothing(seen, "guest-silent", sentence, *proof)
    if seen.agent == "silent" and has_progress(seen):
        what = "QEMU answers and disk requests complete, but the guest agent does not"
        return advise_verb(seen, "guest-hung", what, "try ssh, then reset it", "reset", *proof)
    if has_progress(seen):
        return advise_nothing(
            seen, "healthy", "QEMU answers and disk requests complete: nothing is wrong from here", *proof
        )
    return advise_nothing(seen, "guest-silent", _silence_sentence(seen), *proof)


def _silence_sentence(seen: Evidence) -> str:
    if not compare_queues(seen):
        return f"QEMU answers; its disks can't be watched (not virtio): {_LOOK}"
    agent = "; the guest agent does not answer" if seen.agent == "silent" else ""
    return f"QEMU answers and no disk request is waiting{agent}: {_LOOK}"
