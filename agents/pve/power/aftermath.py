"""Before and after a stop: what is about to start the VM. `stop` means stopped, so a start that is at work is waited
for, and so is Proxmox's cleanup, which starts the VM where a reboot was pending.
"""

import time
from functools import partial

from ..forensics.capture import BUDGET
from ..host.cluster import cluster_view
from ..host.ha import ha_line, ha_manages
from ..host.pve_tasks import cleanup_pids, flock_holders
from ..host.times import AFTERMATH_BEGINS_SECONDS, AFTERMATH_SECONDS, LADDER_SECONDS
from ..host.vmstate import Facts, describe_sources, has_process, observe
from ..jobs.job import Job
from .locked import LOOK_SECONDS, await_holders
from .stop import MOST_SECONDS, failed


def await_start_under_way(job: Job, facts: Facts) -> Facts:
    """Wait for a `qm start` that is at work on the VM: what it starts is to be stopped."""
    if any(holder.kind == "start" for holder in flock_holders(job.host)):
        _await_start(job)
        return observe(job.host)
    return facts


def await_aftermath(job: Job) -> Facts:
    """Look once more when qmeventd's `qm cleanup` of this VM has ended: `stop` means stopped. It begins a moment after
    QEMU's end, and starts the VM where a reboot was pending."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < AFTERMATH_SECONDS:
        if not cleanup_pids(job.host) and passed > AFTERMATH_BEGINS_SECONDS:
            break
        time.sleep(LOOK_SECONDS)
    _await_start(job)
    return observe(job.host)


def refuse_return(job: Job, facts: Facts) -> None:
    if has_process(facts):
        sentence = (
            f"the VM was stopped but runs again, as process {facts.pid}: HA, a reboot or a person started it; find out "
            "which, then stop it again"
        )
        raise failed("started-again", sentence, "stop", describe_sources(facts), *_ha_lines(job))


def say_what_ha_does(job: Job) -> None:
    """A VM that was stopped behind HA's back does not stay so: say what HA wants of it."""
    job.warnings += _ha_lines(job)


def _await_start(job: Job) -> None:
    """Return once nobody starts the VM or cleans up behind it, or once it is there to be stopped; where neither comes
    in time, say so."""
    if not any(holder.kind in ("start", "cleanup") for holder in flock_holders(job.host)):
        return
    kept = LADDER_SECONDS + BUDGET
    is_there = partial(_is_there, job)
    await_holders(job, ("start", "cleanup"), job.left(MOST_SECONDS) - kept, is_there)
    for holder in flock_holders(job.host):
        if holder.kind == "start" and not is_there():
            sentence = (
                f"the VM is stopped, but a start is at work and does not end (process {holder.pid}): end it first"
            )
            raise failed("started-again", sentence, "", f"held by {holder}", f"by hand: kill -9 -- -{holder.pid}")


def _is_there(job: Job) -> bool:
    return has_process(observe(job.host)) is True


def _ha_lines(job: Job) -> tuple[str, ...]:
    view = cluster_view(job.host)
    return (ha_line(view.ha, view.ha_seen),) if ha_manages(view.ha) else ()
