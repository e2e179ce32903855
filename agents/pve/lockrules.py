"""What each verb may do while a task has the VM: the rules for a configuration's `lock:` and for its flock.

A lock is never removed here. One whose task is dead is named as such, with the command for a person to give.
"""

import time

from .cluster import Cluster
from .job import Job
from .locks import flock_holders, owner_of
from .result import Ended, Verdict
from .times import FLOCK_SECONDS
from .words import REFUSED

_PAUSED_FOR_IT = ("paused", "prelaunch")
SHUTDOWNS = ("qmshutdown", "qmreboot", "qm shutdown", "qm reboot")
STOPS = ("qmstop", "qm stop")


def refused(code: str, sentence: str, advice: str = "", *evidence: str) -> Ended:
    return Ended(REFUSED, Verdict(code, sentence, advice, evidence))


def refuse_locked(job: Job, view: Cluster, advice: str = "") -> None:
    """Refuse while the configuration is locked: `qm` would as well. What /etc/pve does not tell refuses nothing."""
    if not view.lock:
        return
    owner = owner_of(job.host, view.lock)
    whose = {
        True: "the task that holds it is at work",
        False: "the task that held it is dead and left it",
        None: "whether a task still holds it could not be told",
    }[owner.alive]
    sentence = f"VM is locked ({view.lock}): {whose}"
    look = () if owner.alive is not None else (f"by hand: qm config {job.host.vmid}; cat /var/log/pve/tasks/active",)
    raise refused("locked", sentence, advice, f"lock: {view.lock}", *owner.lines, *look)


def refuse_reset(job: Job, view: Cluster, state: str) -> None:
    """Refuse a reset only where it could harm what a live task does. It needs no lock: it is a button of QEMU's.

    A dead task's lock protects nothing. A backup reads the disks as they were when it began, whatever the guest does
    since; but a guest that it keeps standing is not a hung one.
    """
    if not view.lock:
        return
    if view.lock == "backup" and state not in _PAUSED_FOR_IT:
        _warn(job, "VM is locked (backup): the backup goes on beside a reset, with the disks as it found them")
        return
    owner = owner_of(job.host, view.lock)
    if owner.alive is not False and view.lock != "suspended":
        refuse_locked(job, view, "start" if view.lock == "backup" else "")
    _warn(job, f"VM is locked ({view.lock}): {'; '.join(owner.lines)}")


def _warn(job: Job, warning: str) -> None:
    if warning not in job.warnings:  # a reset looks twice
        job.warnings.append(warning)


def refuse_resume(job: Job, view: Cluster) -> None:
    """Refuse to let a paused VM go on while a task has it; a backup's lock is no obstacle, as with `qm start`."""
    if view.lock not in ("backup", "suspended"):
        refuse_locked(job, view)


def refuse_flock(job: Job, end_with_it: tuple[str, ...] = ()) -> None:
    """Refuse a start while a process holds the flock, for `qm start` would wait 10 s and fail; short holders are
    waited for. A cycle may go on beside those that `end_with_it`: a shutdown that waits for a hung guest lets go when
    the VM is gone."""
    until = time.monotonic() + FLOCK_SECONDS
    while holders := flock_holders(job.host):
        if all(any(word in holder for word in end_with_it) for holder in holders):
            job.say(f"preflight: {', '.join(holders)} holds the VM and will end with it")
            return
        if time.monotonic() > until:
            path = f"/var/lock/qemu-server/lock-{job.host.vmid}.conf"
            sentence = f"another process works on VM {job.host.vmid} and holds its lock file: {', '.join(holders)}"
            never = f"by hand: wait for it or end it; never rm {path}, that would let two work at once"
            raise refused("locked", sentence, "", f"can't lock file '{path}'", never)
        time.sleep(0.2)
