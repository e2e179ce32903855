"""What a verb looks at before it acts: the cluster, locks, leftovers, and what the person was looking at.

A refusal (exit 12) always means that nothing was changed. What a human must decide (unlock a VM, force a quorum) is
named and never done.
"""

import os
import stat

from .host import Host
from .job import Job
from .probe import run
from .result import Ended, Verdict
from .vmstate import Facts, conclude, has_process, in_time, leftovers
from .words import REFUSED

CLUSTER_SECONDS = 3.0
QM_SECONDS = 8.0


def refused(code: str, sentence: str, advice: str = "", *evidence: str) -> Ended:
    return Ended(REFUSED, Verdict(code, sentence, advice, evidence))


def cluster_view(host: Host) -> dict[str, object] | None:
    """Return what /etc/pve says of the VM, or None when that file system (FUSE, may hang) gives no answer.

    `quorate` is the owner's write bit of /etc/pve/local, which is what PVE's own check_cfs_quorum reads.
    """

    def question() -> dict[str, object]:
        mode = os.stat(host.path("/etc/pve/local")).st_mode
        conf = host.path(f"/etc/pve/qemu-server/{host.vmid}.conf")
        return {
            "quorate": bool(mode & stat.S_IWUSR),
            "config": os.path.exists(conf),
            "lock": _config_lock(conf),
            "qm": any(os.access(f"{directory}/qm", os.X_OK) for directory in os.get_exec_path()),
        }

    answer = in_time(question, CLUSTER_SECONDS)
    return answer if isinstance(answer, dict) else None


def _config_lock(conf: str) -> str:
    try:
        with open(conf, encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("["):  # snapshots follow; only the current section can be locked
                    break
                if line.startswith("lock:"):
                    return line[5:].strip()
    except OSError:
        pass
    return ""


def can_start(job: Job) -> None:
    """Refuse unless a start can succeed: it asks before anything is stopped."""
    host, view = job.host, cluster_view(job.host)
    if view is None:
        raise refused("no-quorum", "/etc/pve does not answer, so a start would hang", "", "/etc/pve: no answer in 3 s")
    if not view["quorate"]:
        raise refused("no-quorum", "this node has no quorum, so a start would fail", "", "/etc/pve/local is read-only")
    if not view["config"]:
        raise refused("no-config", f"VM {host.vmid} has no configuration on this node", "", "look in /etc/pve/.vmlist")
    if not view["qm"]:
        raise refused("no-qm", "qm is not on this host's PATH, so a start would fail", "", f"PATH={os.get_exec_path()}")
    refuse_locked(job, view)
    ran = run(["qm", "status", str(host.vmid)], job.left(QM_SECONDS))
    if ran.code != 0:
        said = f"ended with {ran.code}" if ran.code is not None else f"gave no answer in {QM_SECONDS:g} s"
        last_words = ran.stderr.strip().splitlines()[-1:]
        raise refused("no-qm", f"qm status {said}, so a start would fail as well", "", *last_words)


def refuse_locked(job: Job, view: dict[str, object] | None) -> None:
    """Refuse while a task holds the VM's configuration; what /etc/pve does not tell refuses nothing."""
    if view and view["lock"]:
        vmid = job.host.vmid
        sentence = f"VM {vmid} is locked ({view['lock']}): a task works on it, or died and left the lock"
        raise refused(
            "locked", sentence, "", f"lock: {view['lock']}", f"see who: qm config {vmid}; then qm unlock {vmid}"
        )


def nothing_left(job: Job) -> None:
    """Refuse a start while processes of the stopped VM live on in its scope."""
    if pids := leftovers(job.host):
        raise refused(
            "leftover",
            f"the VM is stopped but processes {pids} are left in its scope; a start would block",
            "",
            f"{job.host.scope}: {pids}",
        )


def as_expected(job: Job, facts: Facts, if_state: str, if_last: str) -> None:
    """Refuse when the host sees other than what the person was looking at; what it can't see refuses nothing."""
    exists = has_process(facts)
    if if_state and exists is None:
        job.warnings.append("the host could not determine whether the VM runs, so if_state was not checked")
    elif if_state and exists != (if_state != "stopped"):
        raise refused("state-differs", f"the VM is {conclude(facts)} now, not {if_state}; look again", "status")
    last = job.memory.last
    if if_last and last != if_last:
        raise refused("last-differs", _what_happened(job, last), "status", f"last: {last}")


def _what_happened(job: Job, last: str) -> str:
    record = job.memory.record(last) if last != "none" else None
    if record is None:
        return "the newest job on this VM is not the one you saw; look again"
    ago = job.record.boottime - record.boottime
    return f"{record.by}: {record.verb}, {ago:.0f} s ago, which you had not seen; look again"
