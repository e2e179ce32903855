"""The verdict on a guest that a backup freezes, or whose disks wait for it. Pure."""

from ..jobs.result import Verdict
from .evidence import Evidence
from .proof import advise_nothing, lock_lines, optional_line


def is_backed_up(evidence: Evidence) -> bool:
    """Tell whether a backup may work on the VM: its lock exists, and its task is not known to be dead."""
    return evidence.lock == "backup" and evidence.lock_alive is not False


def is_backup_at_work(evidence: Evidence) -> bool:
    """Tell whether a backup is proven to work on the VM: its task runs, or QEMU runs a job for it."""
    has_task = evidence.lock == "backup" and evidence.lock_alive is True
    return has_task or any(job.startswith("backup ") for job in evidence.block_jobs)


def judge_frozen(evidence: Evidence, *proof: str) -> Verdict:
    """Judge a guest whose agent has frozen its file systems, as a backup does for a moment, or for good if it dies."""
    what = "the guest's file systems are frozen, so each service that writes waits"
    thaw = f"qm guest cmd {evidence.vmid} fsfreeze-thaw"
    if is_backed_up(evidence):
        who = "a backup runs" if is_backup_at_work(evidence) else "a backup may run"
        do = f"{who}, which freezes them briefly, so look again in a minute; if this lasts, run {thaw}"
        why = f"{who}, which freezes the guest's file systems for a moment: look again in a minute"
    elif evidence.lock == "backup":
        do = f"the backup that froze them is dead, so run {thaw}"
        why = f"the guest's file systems are frozen by a backup that is dead: run {thaw}"
    elif evidence.config:  # the configuration was read, and has no such lock
        do = f"no backup works on the VM now, so run {thaw}"
        why = f"the guest's file systems are frozen, and no backup runs: run {thaw}"
    else:
        do = f"to thaw them, which loses nothing, run {thaw}"
        why = f"the guest's file systems are frozen; to thaw them, which loses nothing, run {thaw}"
    whose = () if evidence.lock == "backup" else optional_line(evidence.last_backup)
    lines = dict.fromkeys((f"by hand: {thaw}", *lock_lines(evidence), *whose, *proof))
    return advise_nothing(evidence, "guest-frozen", f"{what}; {do}", *lines, why=why)


def judge_starved_by_backup(evidence: Evidence, what: str, *proof: str) -> Verdict:
    """Judge disks that completed nothing while a backup runs, because the guest's writes wait for its target."""
    own = [line for line in evidence.lock_owner if line.startswith("by hand: wait")]
    command = own or [f"by hand: wait, or qm monitor {evidence.vmid}, and enter backup_cancel there"]
    sentence = f"{what}, while a backup runs: wait, or end the backup by the first command below"
    why = "a backup runs, and the guest's disks wait for it: wait, or end the backup; a power-cycle does not help"
    return advise_nothing(evidence, "backup-starves", sentence, *dict.fromkeys((*command, *proof)), why=why)
