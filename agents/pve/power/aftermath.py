"""Handles anything that is about to start the VM, before and after a stop.

`stop` means stopped. So it waits for a start under way, and for Proxmox's cleanup, which starts the VM if a reboot was
pending.
"""

import time
from functools import partial

from ..budget import AFTERMATH_BEGINS_SECONDS, AFTERMATH_SECONDS, EVIDENCE_SECONDS, HA_TAKES_SECONDS, LADDER_SECONDS
from ..forensics.ha_daemons import describe_ha, prove_ha
from ..host.cluster import cluster_view
from ..host.pve_tasks import cleanup_pids, flock_holders
from ..host.vm_config import ha_manages, ha_restarts
from ..host.vmstate import Facts, describe_sources, has_process, observe
from ..jobs.job import Job
from ..words import DEADLINE, FAILED
from .begin import failure
from .locked import LOOK_SECONDS, await_holders
from .stop import MOST_SECONDS


def await_start_under_way(job: Job, facts: Facts) -> Facts:
    """Wait for a `qm start` that works on the VM, and return the state after it, which is to be stopped."""
    if any(holder.kind == "start" for holder in flock_holders(job.host)):
        _await_start(job)
        return observe(job.host)
    return facts


def await_aftermath(job: Job) -> Facts:
    """Wait for the end of qmeventd's `qm cleanup` of this VM, and return the state after it.

    The cleanup begins a moment after QEMU's end, and starts the VM if a reboot was pending.
    """
    began = time.monotonic()
    while (passed := time.monotonic() - began) < AFTERMATH_SECONDS:
        if not cleanup_pids(job.host) and passed > AFTERMATH_BEGINS_SECONDS:
            break
        time.sleep(LOOK_SECONDS)
    _await_start(job)
    return observe(job.host)


def refuse_return(job: Job, facts: Facts) -> None:
    """Fail if the VM runs again after its stop."""
    if has_process(facts):
        sentence = (
            f"the VM was stopped but runs again, as process {facts.pid}: HA, a reboot or a person started it; find out "
            "which, then stop it again"
        )
        raise failure("started-again", sentence, "stop", describe_sources(facts), *_ha_lines(job))


def warn_of_ha(job: Job) -> None:
    """Warn if HA wants another state, because HA may start a VM again that was stopped without HA."""
    job.warnings += _ha_lines(job)


def have_ha_leave_it_off(job: Job) -> None:
    """Ask HA to keep a VM off that is off already, because HA would otherwise start it, as after a crash."""
    if not ha_restarts((view := cluster_view(job.host)).ha, view.ha_seen):
        return
    job.enter("stop")
    ran = job.run(["qm", "stop", str(job.host.vmid)], HA_TAKES_SECONDS)
    until = time.monotonic() + job.seconds_left(HA_TAKES_SECONDS)
    while ha_restarts((view := cluster_view(job.host)).ha, view.ha_seen):
        if ran.code != 0 or time.monotonic() > until:
            sentence = "the VM is off, but HA wants it to run and has not taken the request to stop it: HA may start it"
            waits = ("HA's queue has the request; when HA reads it, HA leaves the VM off",) if ran.code == 0 else ()
            lines = (*waits, *prove_ha(job.host.vmid, view))
            raise failure("ha-holds", sentence, "", *lines, exit_code=FAILED if ran.code else DEADLINE)
        time.sleep(0.5)


def _await_start(job: Job) -> None:
    """Return when no start or cleanup is at work on the VM, or when the VM is up and can be stopped.

    A start that does not end in time is a failure.
    """
    if not any(holder.kind in ("start", "cleanup") for holder in flock_holders(job.host)):
        return
    reserved = LADDER_SECONDS + EVIDENCE_SECONDS
    is_up = partial(_is_up, job)
    await_holders(job, ("start", "cleanup"), job.seconds_left(MOST_SECONDS) - reserved, is_up)
    for holder in flock_holders(job.host):
        if holder.kind == "start" and not is_up():
            sentence = f"the VM is stopped, but a start under way may still start it: end process {holder.pid} first"
            lines = (f"the lock file is held by {holder}", f"by hand: kill -9 -- -{holder.pid}")
            raise failure("started-again", sentence, "", *lines)


def _is_up(job: Job) -> bool:
    return has_process(observe(job.host)) is True


def _ha_lines(job: Job) -> tuple[str, ...]:
    view = cluster_view(job.host)
    return (describe_ha(view),) if ha_manages(view.ha) else ()
