"""Decides what each verb may do while a task works on the VM, by rules for a configuration's `lock:` and for its flock.

A lock is never removed here. If the task of a lock is dead, the refusal says so and names the command that removes the
lock.
"""

import time
from collections.abc import Callable

from ..budget import CLEANUP_SECONDS, FLOCK_SECONDS
from ..host.cluster import Cluster
from ..host.pve_tasks import Holder, find_lock_owner, flock_holders
from ..jobs.job import Job
from .begin import refusal

LOOK_SECONDS = 0.2
_PAUSED_FOR_IT = ("paused", "prelaunch")
ENDS_WITH_QEMU = ("stop", "shutdown")  # tasks that release the VM's lock file once QEMU has ended


def refuse_locked(job: Job, view: Cluster, advice: str = "") -> None:
    """Refuse while the configuration is locked, as `qm` would; if /etc/pve does not answer, nothing is refused."""
    if not view.lock:
        return
    owner = find_lock_owner(job.host, view.lock)
    whose = {
        True: "the task that set the lock is running",
        False: "the task that set the lock is dead",
        None: "the host can't tell whether the task that set the lock still runs",
    }[owner.alive]
    sentence = f"VM is locked ({view.lock}): {whose}"
    look = () if owner.alive is not None else (f"by hand: qm config {job.host.vmid}; cat /var/log/pve/tasks/active",)
    raise refusal("locked", sentence, advice, f"lock: {view.lock}", *owner.lines, *look)


def refuse_reset(job: Job, view: Cluster, state: str) -> None:
    """Refuse a reset only if it could harm the work of a live task. A reset itself needs no lock.

    A dead task's lock protects nothing. A backup reads the disks as they were when it began, so a reset does not harm
    it. But a guest that a backup keeps paused isn't hung.
    """
    if not view.lock:
        return
    owner = find_lock_owner(job.host, view.lock)
    if view.lock == "backup" and state not in _PAUSED_FOR_IT and owner.alive is not False:
        _warn(
            job,
            "VM is locked (backup): the backup continues during a reset and saves the disks as they were when it began",
        )
        return
    if owner.alive is not False and view.lock != "suspended":
        refuse_locked(job, view, "start" if view.lock == "backup" else "")
    _warn(job, f"VM is locked ({view.lock}): {'; '.join(owner.lines)}")


def _warn(job: Job, warning: str) -> None:
    if warning not in job.warnings:  # a reset looks twice
        job.warnings.append(warning)


def refuse_resume(job: Job, view: Cluster) -> None:
    """Refuse to continue a paused VM while a task works on it; a backup's lock is allowed, as in `qm start`."""
    if view.lock not in ("backup", "suspended"):
        refuse_locked(job, view)


def refuse_flock(job: Job, end_with_it: tuple[str, ...] = ()) -> None:
    """Refuse while a process holds the VM's lock file: `qm` would wait 10 s and fail.

    It waits for short holders and for actions that end by themselves: `qm cleanup`, and a stop of a VM that is to be
    started. A cycle continues beside holders of a kind in `end_with_it`.
    """
    patience = Patience()
    shown: list[str] = []
    while holders := flock_holders(job.host):
        if all(holder.kind in end_with_it for holder in holders):
            job.say(f"{job.stage}: {format_holders(holders)} holds the VM's lock file until QEMU ends; continuing")
            return
        over = [patience.is_over(holder, time.monotonic(), job) for holder in holders]
        if all(over):
            raise refusal("locked", *_describe_flock(job, holders))
        _say_once(job, shown, f"{job.stage}: waiting for {format_holders(holders)}, which holds the VM's lock file")
        time.sleep(LOOK_SECONDS)


class Patience:
    """How long each holder of the lock file is waited for, counted from the first look that saw it.

    A process that exits loses its command line before its locks (exit_mm and exit_files in the kernel's do_exit). So
    the time that its name was granted stays with its pid, because a holder without a name would be refused while it
    exits.
    """

    def __init__(self) -> None:
        self._since: dict[int, float] = {}
        self._seconds: dict[int, float] = {}

    def is_over(self, holder: Holder, now: float, job: Job) -> bool:
        """Tell whether a holder was waited for as long as its kind, or the verb's deadline, allows."""
        since = self._since.setdefault(holder.pid, now)
        granted = CLEANUP_SECONDS if holder.kind in ("cleanup", "stop", "shutdown") else FLOCK_SECONDS
        seconds = self._seconds[holder.pid] = max(granted, self._seconds.get(holder.pid, 0.0))
        return now - since > job.seconds_left(seconds)


def _describe_flock(job: Job, holders: list[Holder]) -> tuple[str, ...]:
    """Return sentence, advice and evidence of a refusal for a lock file that is held."""
    path = f"/var/lock/qemu-server/lock-{job.host.vmid}.conf"
    sentence = f"another process works on VM {job.host.vmid} and holds its lock file: process {holders[0].pid}"
    never = f"by hand: wait for that process or end it; never rm {path}, because two could then work at once"
    return (
        sentence,
        "",
        *(f"the lock file is held by {holder}" for holder in holders),
        f"can't lock file '{path}'",
        never,
    )


def await_holders(job: Job, kinds: tuple[str, ...], seconds: float, is_over: Callable[[], bool]) -> None:
    """Wait while the VM's lock file is held by processes of these kinds, `seconds` at most, or until `is_over`."""
    until = time.monotonic() + (limit := job.seconds_left(max(0.0, seconds)))
    shown: list[str] = []
    while not is_over() and time.monotonic() < until:
        holders = [holder for holder in flock_holders(job.host) if holder.kind in kinds]
        if not holders:
            return
        what = f"waiting for {format_holders(holders)}, which holds the VM's lock file, for at most {limit:.0f} s"
        _say_once(job, shown, f"{job.stage}: {what}")
        time.sleep(LOOK_SECONDS)


def _say_once(job: Job, shown: list[str], line: str) -> None:
    if line not in shown:
        shown.append(line)
        job.say(line)


def format_holders(holders: list[Holder]) -> str:
    """Return the holders as one line."""
    return ", ".join(map(str, holders))
