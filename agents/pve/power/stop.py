"""Stopping a VM as a ladder: `qm stop`, QMP quit, SIGTERM, SIGKILL, then proof that no process is left."""

import os
import time
from collections.abc import Callable
from functools import partial

from ..budget import CLEANUP_SECONDS, HA_STOP_SECONDS, LADDER_SECONDS, QM_STOP_SECONDS, SETTLE_SECONDS
from ..forensics.ha_daemons import describe_ha, find_dead_ha, find_no_return, prove_ha
from ..forensics.obstacles import TROUBLES
from ..host.bounded import ask_or_none
from ..host.cluster import Cluster, cluster_view, is_stale_copy
from ..host.paths import Host, read_small_file, write_atomic
from ..host.pve_tasks import Holder, flock_holders
from ..host.vm_config import AT_REST, ha_manages, ha_restarts
from ..host.vmstate import Facts
from ..jobs.job import Job
from ..jobs.result import Ended
from ..words import DEADLINE, FAILED
from .begin import failure
from .kill import await_gone, describe_survival, is_gone, is_qemu_alive, kill, quit_qemu, terminate
from .locked import ENDS_WITH_QEMU, await_holders

MOST_SECONDS = 3600.0  # no limit except the deadline
LEAST_SECONDS = 1.0

Refuse = Callable[[Cluster], None]  # gets the facts of /etc/pve; raises Ended if the VM must not be stopped


def stop_process(job: Job, facts: Facts, refuse: Refuse) -> None:
    """Stop the VM by Proxmox; if that fails, by QMP quit, SIGTERM and SIGKILL; then prove that it is gone.

    If a stop is under way already, this waits for it. `refuse` is called before Proxmox's stop and before the direct
    one: the state that the preflight saw may have changed.
    """
    if is_gone(job, facts):
        job.enter("stop")
        call_off_reboot(job)
        job.say("stop: no process of the VM runs any more")
        return
    view = cluster_view(job.host)
    refuse(view)
    job.enter("stop")
    call_off_reboot(job)
    if view.trouble:
        _warn_of_silent_pve(job, view)
    elif is_stale_copy(job.host, view):  # `qm stop` would have HA stop the VM on the other node
        job.say(f"stop: the VM is on node {view.node}, so qm can't be used for the QEMU here; stopping QEMU directly")
    else:
        _stop_by_proxmox(job, facts, view)
        if not is_gone(job, facts):
            _refuse_force(job, refuse)
    for rung in (quit_qemu, terminate, kill):
        if is_gone(job, facts):
            break
        call_off_reboot(job)
        rung(job, facts)
    job.enter("verify")
    if not is_gone(job, facts):
        raise describe_survival(job, facts)
    job.say("stop: no process is left")


def _warn_of_silent_pve(job: Job, view: Cluster) -> None:
    job.say(f"stop: {TROUBLES[view.trouble][0]}, so qm can't be used; stopping QEMU directly")
    job.warnings.append("the host can't read whether HA manages the VM; if it does, HA may start the VM again")
    job.warnings.append(f"a start is refused until /etc/pve answers; {TROUBLES[view.trouble][1]}")


def _refuse_force(job: Job, refuse: Refuse) -> None:
    """End the verb where `qm stop` failed because a backup began meanwhile, or the quorum was lost."""
    try:
        refuse(cluster_view(job.host))
    except Ended as ended:
        sentence = f"qm stop did not end the VM, and {ended.verdict.sentence}; QEMU was not killed"
        raise failure(ended.verdict.code, sentence, ended.verdict.advice, *ended.verdict.evidence) from None


def refuse_move(job: Job) -> None:
    """Fail if the VM has gone to another node: its QEMU was moved, not stopped."""
    view = cluster_view(job.host, 1.0)
    if view.node:
        sentence = f"VM {job.host.vmid} moved to node {view.node} while the verb ran: look there"
        raise failure("moved", sentence, "", f"/etc/pve/.vmlist names {view.node}")


def call_off_reboot(job: Job) -> None:
    """Remove the mark that makes qmeventd start the VM again once it has stopped.

    A person's `qm reboot` leaves that mark while it waits for a guest that hangs. A cycle leaves the mark alone,
    because it wants the same.
    """
    if job.record.verb != "stop":
        return
    try:
        os.unlink(job.host.path(f"/run/qemu-server/{job.host.vmid}.reboot"))
        job.say("stop: a pending reboot of the VM was cancelled, so that the VM stays off")
    except FileNotFoundError:
        pass
    except OSError as error:
        job.warnings.append(f"a pending reboot can't be cancelled ({error.strerror}): Proxmox starts the VM again")


def _stop_by_proxmox(job: Job, facts: Facts, view: Cluster) -> None:
    """Wait for a stop that HA, a person or another `qm` has begun; without one, run `qm stop`.

    It does not wait for a shutdown, because a hung guest ignores that, unless HA stops the VM by it.
    """
    kinds = ENDS_WITH_QEMU if ha_manages(view.ha) else ("stop",)
    is_over = partial(is_gone, job, facts)
    await_holders(job, ("cleanup",), CLEANUP_SECONDS, is_over)
    if not _await_stops(job, facts, kinds) and not is_gone(job, facts):
        call_off_reboot(job)
        _stop_by_qm(job, facts, view)
        if not is_gone(job, facts):
            _await_stops(job, facts, kinds)


def _await_stops(job: Job, facts: Facts, kinds: tuple[str, ...]) -> list[Holder]:
    """Wait for stops that hold the VM's lock file, as long as the deadline allows; return the stops that hang.

    A single look that finds none, or a new one, proves nothing, so they hang only when the time is over.
    """
    while True:
        await_holders(job, kinds, _seconds_before_ladder(job, MOST_SECONDS), partial(is_gone, job, facts))
        hanging = [] if is_gone(job, facts) else [each for each in flock_holders(job.host) if each.kind == "stop"]
        if not hanging:
            return []
        if _seconds_before_ladder(job, MOST_SECONDS) <= LEAST_SECONDS:
            _refuse_hanging_stop(job, hanging)
            return hanging


def _refuse_hanging_stop(job: Job, hanging: list[Holder]) -> None:
    """End a cycle whose VM is locked by a stop that hangs, because no start could follow. A `stop` may continue."""
    if job.record.verb == "cycle":
        pid = hanging[0].pid
        sentence = f"a stop of the VM hangs (process {pid}) and may still stop it: end that process, then cycle the VM"
        lines = (
            *(f"the lock file is held by {holder}" for holder in hanging),
            f"by hand: kill -9 -- -{pid}",
            "QEMU was not killed",
        )
        raise failure("locked", sentence, "", *lines)


def _stop_by_qm(job: Job, facts: Facts, view: Cluster) -> None:
    """Run `qm stop`. For a VM under HA that is a request, which gets its own time and limits what may follow.

    A dead HA that wants the VM stopped anyway is not asked: because its queue would keep the request until after a
    start.
    """
    if job.record.verb == "stop" and not ha_restarts(view.ha, view.ha_seen) and find_dead_ha(view):
        job.say(f"stop: {describe_ha(view)}; ending QEMU directly")
        return
    ran = job.run(["qm", "stop", str(job.host.vmid)], _seconds_before_ladder(job, QM_STOP_SECONDS))
    how = "could not be ended" if job.survivors else "was ended, with its worker"
    job.say(f"stop: qm stop {f'did not end in time and {how}' if ran.code is None else f'ended with {ran.code}'}")
    if not ha_manages(view.ha) and "Requesting HA stop" not in ran.stdout:
        if ran.code == 0 and not is_qemu_alive(job, facts):  # remaining processes in the scope may take a moment to end
            await_gone(job, facts, SETTLE_SECONDS)
        return
    if ran.code == 0:
        job.say("stop: HA has the request; a working HA begins the stop within 30 s")
        await_gone(job, facts, _seconds_before_ladder(job, HA_STOP_SECONDS))
        await_holders(job, ENDS_WITH_QEMU, _seconds_before_ladder(job, MOST_SECONDS), partial(is_gone, job, facts))
    if not is_gone(job, facts):
        _leave_to_ha(job, asked_ha=ran.code is None or ran.code <= 0)  # a qm that was killed may have asked HA before


def _seconds_before_ladder(job: Job, seconds: float) -> float:
    """Return how long a step of a stop may take, so that the steps after it have enough time, too."""
    reserved = LADDER_SECONDS + job.reserved
    return max(LEAST_SECONDS, job.seconds_left(seconds + reserved) - reserved)


def _leave_to_ha(job: Job, asked_ha: bool) -> None:
    """End the verb rather than kill a QEMU that HA wants to run, or the QEMU of a cycle that HA could not start again.

    HA would start it again, or move it to another node while it hangs here. If HA itself wants it stopped, or is in
    state error, nothing starts it again, so it may be ended directly.
    """
    view = cluster_view(job.host)
    why = "HA would start it again or move it"
    needs_ha = job.record.verb == "cycle" and ha_manages(view.ha)
    if view.answers and not ha_restarts(view.ha, view.ha_seen):
        why = find_no_return(job.host, view, job.seconds_left(MOST_SECONDS)) if needs_ha else ""
        if not why:
            job.say(f"stop: {describe_ha(view)}; ending QEMU directly")
            return
    known = view if view.answers else Cluster(ha="started")
    sentence = f"HA manages the VM and has not stopped it; it was not killed, because {why}"
    later = (_withdraw_stop(job),) if asked_ha else ()
    lines = (*later, *prove_ha(job.host.vmid, known))
    raise failure("ha-holds", sentence, "", *lines, exit_code=DEADLINE if asked_ha else FAILED)


def _withdraw_stop(job: Job) -> str:
    """Take back a stop that was asked of HA and not done, so that it does not come later; return a line about that."""
    is_queued = ask_or_none(lambda: _unqueue_stop(job.host), job.seconds_left(CLEANUP_SECONDS))
    if is_queued:
        return "the request to stop the VM was taken back before HA read it, so HA does not stop the VM later"
    is_taken = is_queued is False and job.record.verb == "cycle" and cluster_view(job.host).ha in AT_REST
    if is_taken and job.run(["qm", "start", str(job.host.vmid)], CLEANUP_SECONDS).code == 0:
        return "HA had read the request, so HA was asked to start the VM again; HA may stop the VM once before that"
    return "HA may still stop the VM later; then the VM stays off until you start it"


def _unqueue_stop(host: Host) -> bool:
    """Remove the newest request to stop this VM from HA's queue, under Proxmox's lock for it.

    Tell whether there was one and no other is left, because an older request belongs to another person.
    """
    lock, queue = host.path("/etc/pve/priv/lock/domain-ha"), host.path("/etc/pve/ha/crm_commands")
    while True:
        try:
            os.makedirs(lock)
            break
        except FileExistsError:
            time.sleep(LEAST_SECONDS / 5)
    try:
        before, request, after = read_small_file(queue).rpartition(f"stop vm:{host.vmid} 0\n")
        if request:
            write_atomic(queue, before + after)
        return bool(request) and request not in before
    finally:
        os.rmdir(lock)
