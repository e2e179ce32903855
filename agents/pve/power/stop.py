"""Stopping a VM as a ladder: `qm stop`, QMP quit, SIGTERM, SIGKILL, then proof that no process is left.

Only a process that /proc shows to be this VM's QEMU is ever signalled, through a pidfd opened before it was verified.
"""

import os
import select
import signal
import time
from collections.abc import Callable
from functools import partial

from ..forensics.obstacles import TROUBLES
from ..host.cluster import Cluster, cluster_view
from ..host.ha import ha_by_hand, ha_line, ha_manages, ha_restarts
from ..host.pve_tasks import Holder, flock_holders
from ..host.qmp import Qmp, QmpError, QmpSilent
from ..host.times import (
    CLEANUP_SECONDS,
    HA_STOP_SECONDS,
    KILL_SECONDS,
    LADDER_SECONDS,
    QM_STOP_SECONDS,
    QUIT_SECONDS,
    SETTLE_SECONDS,
    TERM_SECONDS,
)
from ..host.vmstate import (
    Facts,
    describe_leftovers,
    describe_sources,
    has_process,
    is_vm_process,
    leftover_pids,
    name_processes,
    observe,
    read_pid,
)
from ..jobs.job import Job
from ..jobs.result import Ended, Verdict
from ..words import DEADLINE, FAILED
from .locked import ENDS_WITH_QEMU, await_holders

MOST_SECONDS = 3600.0  # as long as the deadline allows
LEAST_SECONDS = 1.0

Refuse = Callable[[Cluster], None]  # given what /etc/pve says; raises Ended where the VM must not be stopped


def failed(code: str, sentence: str, advice: str = "", *evidence: str, exit_code: int = FAILED) -> Ended:
    return Ended(exit_code, Verdict(code, sentence, advice, evidence))


def as_ended(job: Job, error: Exception) -> Ended:
    """Return a verb's own end, or the one that a defect or a host without memory makes."""
    if isinstance(error, Ended):
        return error
    sentence = f"the host agent failed in stage {job.stage}: {type(error).__name__}"
    return failed("agent-failed", sentence, "status", str(error))


def stop_process(job: Job, facts: Facts, refuse: Refuse) -> None:
    """Let whoever stops it already, or `qm stop`, do it; where that can't, QMP quit, SIGTERM, SIGKILL to the verified
    process; then proof.

    `refuse` is asked again before either: the evidence took its time, and what the preflight saw may be over."""
    if is_gone(job, facts):
        job.enter("stop")
        call_off_reboot(job)
        job.say("stop: no process is left already")
        return
    view = cluster_view(job.host)
    refuse(view)
    job.enter("stop")
    call_off_reboot(job)
    if view.trouble:
        job.say(f"stop: {TROUBLES[view.trouble][0]}, so qm can't be used; stopping QEMU directly")
        job.warnings.append("/etc/pve did not tell whether HA manages the VM; if it does, HA may start it again")
        job.warnings.append(f"a start is refused until /etc/pve answers; {TROUBLES[view.trouble][1]}")
    else:
        _stop_by_proxmox(job, facts, view)
        if not is_gone(job, facts):
            _look_before_force(job, refuse)
    for rung in (_quit, _terminate, _kill):
        if is_gone(job, facts):
            break
        call_off_reboot(job)
        rung(job, facts)
    job.enter("verify")
    if not is_gone(job, facts):
        raise _not_gone(job, facts)
    job.say("stop: no process is left")


def _look_before_force(job: Job, refuse: Refuse) -> None:
    """End the verb where `qm stop` failed because of what began meanwhile, a backup or the loss of the quorum."""
    try:
        refuse(cluster_view(job.host))
    except Ended as ended:
        sentence = f"qm stop did not end it, and {ended.verdict.sentence}; QEMU was not killed"
        raise failed(ended.verdict.code, sentence, ended.verdict.advice, *ended.verdict.evidence) from None


def call_off_reboot(job: Job) -> None:
    """Take away the mark by which qmeventd would start the VM again once it has stopped: a person's `qm reboot` leaves
    it while it waits for a guest that hangs. A cycle lets it be: it wants the same."""
    if job.record.verb != "stop":
        return
    try:
        os.unlink(job.host.path(f"/run/qemu-server/{job.host.vmid}.reboot"))
        job.say("stop: a reboot of the VM was pending; it was called off, so that the VM stays off")
    except FileNotFoundError:
        pass
    except OSError as error:
        job.warnings.append(f"a reboot is pending and could not be called off ({error}): Proxmox starts the VM again")


def _stop_by_proxmox(job: Job, facts: Facts, view: Cluster) -> None:
    """Wait for a stop that HA, a person or another `qm` has begun: it stops the VM for us. Without one, ask `qm`. A
    shutdown is gone around, for a hung guest does not heed it; under HA it is HA's way to stop."""
    kinds = ENDS_WITH_QEMU if ha_manages(view.ha) else ("stop",)
    over = partial(is_gone, job, facts)
    await_holders(job, ("cleanup",), CLEANUP_SECONDS, over)
    if not _await_stops(job, facts, kinds) and not is_gone(job, facts):
        call_off_reboot(job)
        _stop_by_qm(job, facts, view)
        if not is_gone(job, facts):
            _await_stops(job, facts, kinds)


def _await_stops(job: Job, facts: Facts, kinds: tuple[str, ...]) -> list[Holder]:
    """Wait for stops that hold the VM's lock file, as long as the deadline allows; return those that hang. One look
    that saw none, or a new one, proves nothing: the time must be over."""
    while True:
        await_holders(job, kinds, _before_ladder(job, MOST_SECONDS), partial(is_gone, job, facts))
        hanging = [] if is_gone(job, facts) else [each for each in flock_holders(job.host) if each.kind == "stop"]
        if not hanging:
            return []
        if _before_ladder(job, MOST_SECONDS) <= LEAST_SECONDS:
            _refuse_hanging_stop(job, hanging)
            return hanging


def _refuse_hanging_stop(job: Job, hanging: list[Holder]) -> None:
    """End a cycle whose VM a stop neither ends nor lets go of: with its lock file held no start could follow. A stop
    may go on without it."""
    if job.record.verb == "cycle":
        pid = hanging[0].pid
        sentence = f"a stop of the VM hangs (process {pid}) and may still stop it: end that process, then cycle it"
        lines = (*(f"held by {holder}" for holder in hanging), f"by hand: kill -9 -- -{pid}", "QEMU was not killed")
        raise failed("locked", sentence, "", *lines)


def _stop_by_qm(job: Job, facts: Facts, view: Cluster) -> None:
    """Let `qm` stop it. For a VM under HA that is a request, which gets its time and decides what may follow."""
    ran = job.run(["qm", "stop", str(job.host.vmid)], _before_ladder(job, QM_STOP_SECONDS))
    job.say(ran.stdout)
    job.say(ran.stderr, "stderr")
    given_up = "could not be ended" if job.unended else "was ended, with its worker"
    ended = f"did not end in time and {given_up}" if ran.code is None else f"ended with {ran.code}"
    job.say(f"stop: qm stop {ended}")
    if not ha_manages(view.ha) and "Requesting HA stop" not in ran.stdout:
        if ran.code == 0 and not qemu_lives(job, facts):  # what it left in the scope may take a moment to go
            _wait_gone(job, facts, SETTLE_SECONDS)
        return
    if ran.code == 0:
        job.say("stop: HA has been asked; it begins within half a minute when it is well")
        _wait_gone(job, facts, _before_ladder(job, HA_STOP_SECONDS))
        await_holders(job, ENDS_WITH_QEMU, _before_ladder(job, MOST_SECONDS), partial(is_gone, job, facts))
    if not is_gone(job, facts):
        _leave_it_to_ha(job, asked_ha=ran.code == 0)


def _before_ladder(job: Job, seconds: float) -> float:
    """Return how long a step of a stop may take: what follows it needs its time, too."""
    kept = LADDER_SECONDS + job.reserved
    return max(LEAST_SECONDS, job.left(seconds + kept) - kept)


def _leave_it_to_ha(job: Job, asked_ha: bool) -> None:
    """End the verb rather than kill a QEMU that HA wants to run: HA would start it again, or move it to another node
    while it hangs here. Where HA itself wants it stopped, or has given it up (error), nothing brings it back, so it
    may be ended directly."""
    view = cluster_view(job.host)
    if view.answers and not ha_restarts(view.ha, view.ha_seen):
        job.say(f"stop: {ha_line(view.ha, view.ha_seen)}; ending QEMU directly")
        return
    known = view if view.answers else Cluster(ha="started")
    sentence = "HA manages the VM and has not stopped it; it was not killed, because HA would start it again or move it"
    asked = ("HA took the request and may still stop it; it then stays off until a start",) if asked_ha else ()
    lines = (*asked, ha_line(known.ha, known.ha_seen), *ha_by_hand(job.host.vmid, known.ha, known.ha_seen))
    raise failed("ha-holds", sentence, "", *lines, exit_code=DEADLINE if asked_ha else FAILED)


def _not_gone(job: Job, facts: Facts) -> Ended:
    """Return what is really left: a QEMU that nothing can kill, or something else in its scope."""
    now, pids = observe(job.host), leftover_pids(job.host)
    if has_process(now) is False and not qemu_lives(job, facts):
        sentence = f"QEMU is gone, but {name_processes(pids)} left in its scope: a start would fail"
        return failed("leftover", sentence, "", describe_sources(now), *describe_leftovers(pids), exit_code=DEADLINE)
    if facts.pid is not None and is_vm_process(job.host, facts.pid) is None:
        sentence = "it is not known whether QEMU has ended: /proc does not answer; a start could fail"
        return failed("deadline", sentence, "", describe_sources(facts), exit_code=DEADLINE)
    sentence = "QEMU survived SIGKILL: it waits for storage that does not answer; a start would fail"
    later = "when that storage answers again QEMU ends, and the VM stays off until somebody starts it"
    lines = (describe_sources(facts), f"process {facts.pid} lives", later)
    return failed("deadline", sentence, "", *lines, exit_code=DEADLINE)


def qemu_lives(job: Job, facts: Facts) -> bool:
    """Tell whether the process itself is there: `qm stop` does not look again after its SIGKILL and says done."""
    return facts.pid is not None and is_vm_process(job.host, facts.pid) is not False


def _wait_gone(job: Job, facts: Facts, seconds: float) -> None:
    until = time.monotonic() + job.left(seconds)
    while not is_gone(job, facts) and time.monotonic() < until:
        time.sleep(0.1)


def is_gone(job: Job, facts: Facts) -> bool:
    """Tell whether the process that was to go is gone, and everything in its scope with it."""
    pid = read_pid(job.host) or facts.pid
    if pid != facts.pid and pid is not None and is_vm_process(job.host, pid):
        return True  # somebody, HA perhaps, has started the VM anew: the process that was to go is gone
    if leftover_pids(job.host):
        return False
    return pid is None or is_vm_process(job.host, pid) is False


def _quit(job: Job, facts: Facts) -> None:
    pidfd = _verified_pidfd(job, facts)
    if pidfd is None:
        return
    try:
        with Qmp(job.host.qmp, job.left(3)) as qmp:
            qmp.command("quit")
        _wait_end(job, pidfd, QUIT_SECONDS)
    except (QmpError, QmpSilent):
        os.close(pidfd)


def _terminate(job: Job, facts: Facts) -> None:
    _signal(job, facts, signal.SIGTERM, TERM_SECONDS)


def _kill(job: Job, facts: Facts) -> None:
    _signal(job, facts, signal.SIGKILL, KILL_SECONDS)


def end_qemu(job: Job, pid: int) -> None:
    """SIGKILL a QEMU of this VM: one that was half started, and of which there is no pid file yet. Waits for its end,
    whatever is left of the deadline."""
    pidfd = _verified_pidfd(job, Facts(pid=pid))
    if pidfd is not None:
        job.say(f"start: SIGKILL to {pid}, which was half started")
        _send(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], KILL_SECONDS)
        os.close(pidfd)


def _signal(job: Job, facts: Facts, number: signal.Signals, seconds: float) -> None:
    pidfd = _verified_pidfd(job, facts)
    if pidfd is None:
        return
    job.say(f"stop: {number.name} to {facts.pid}")
    _send(pidfd, number)
    _wait_end(job, pidfd, seconds)


def _send(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except OSError:
        pass


def _verified_pidfd(job: Job, facts: Facts) -> int | None:
    """Open the process first and verify it then: what the descriptor names can't be another process later."""
    if facts.pid is None:
        return None
    try:
        pidfd = os.pidfd_open(facts.pid)
    except OSError:
        return None
    if is_vm_process(job.host, facts.pid):
        return pidfd
    os.close(pidfd)
    return None


def _wait_end(job: Job, pidfd: int, seconds: float) -> None:
    select.select([pidfd], [], [], job.left(seconds))
    os.close(pidfd)
