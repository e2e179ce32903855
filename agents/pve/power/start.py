"""Starts a VM and proves that it runs: QEMU itself says so, from a new process. Under HA `qm start` only asks."""

import time

from ..budget import CLEANUP_SECONDS, HA_START_SECONDS, QM_START_SECONDS, SECOND_START_SECONDS, START_VERIFY_SECONDS
from ..forensics.guest_agent import guest_agent_state
from ..forensics.ha_daemons import describe_ha, prove_ha
from ..forensics.leftovers import describe_leftovers, name_processes
from ..forensics.startable import find_start_trouble
from ..host.bounded import CommandResult
from ..host.cluster import Cluster, cluster_view
from ..host.pve_tasks import flock_holders
from ..host.vm_config import AT_REST
from ..host.vmstate import (
    describe_sources,
    has_process,
    leftover_pids,
    observe,
    read_pid,
    vm_state,
)
from ..jobs.job import Job
from ..jobs.result import Ended, Result
from ..words import DEADLINE, DONE, WOULD_NOT_START
from .begin import ended_from_error, failure
from .kill import kill_half_started
from .locked import await_holders
from .stop import MOST_SECONDS, refuse_move

AGENT_PING_SECONDS = 1.0
AFTER_FAILURE_SECONDS = 10.0  # for checking whether another start would also fail
CAUSE_CHARS = 130  # the most characters of qm's words in the sentence; the output has all of qm's words


def start_again(job: Job, old: int) -> Result:
    """Start what a cycle has stopped; try twice, because a first failure may be a lock that was held for a moment."""
    try:
        return start_process(job, old)
    except Exception as error:
        ended = ended_from_error(job, error)
        if (
            ended.exit_code == DEADLINE
            or ended.verdict.code in ("moved", "ha-holds", WOULD_NOT_START)
            or vm_state(observe(job.host)) != "stopped"
        ):
            raise ended from None
        job.say(f"start: {ended.verdict.sentence}; trying once more", "stderr")
        time.sleep(SECOND_START_SECONDS)
        return start_process(job, old)


def start_process(job: Job, old: int) -> Result:
    """Run `qm start`, then wait until QEMU itself says that it runs, in a process other than `old`.

    If a start is under way already, this waits for it.
    """
    job.enter("start")
    budget = max(CLEANUP_SECONDS, job.seconds_left(MOST_SECONDS) - job.start_seconds)
    await_holders(job, ("stop", "shutdown", "cleanup", "start"), budget, lambda: _runs_in_new_process(job, old))
    if _runs_in_new_process(job, old):
        job.say(f"start: the VM was started already, as process {read_pid(job.host)}")
        return verify_running(job, START_VERIFY_SECONDS)
    seconds = job.seconds_left(job.start_seconds)
    ran = job.run(["qm", "start", str(job.host.vmid)], seconds, gently=True)
    if ran.code:  # qm was killed from outside or could not record its task, but its worker may continue
        await_holders(job, ("start",), job.start_seconds, lambda: _runs_in_new_process(job, old))
    if ran.code is not None and ran.code < 0:
        for holder in flock_holders(job.host):
            if holder.kind == "start" and not _runs_in_new_process(job, old):
                job.end_command(holder.pid)
    if (ran.code is None or ran.code < 0) and not _runs_in_new_process(job, old):
        raise _abandon_start(job, seconds)
    if ran.code and "already running" not in ran.stderr and not _runs_in_new_process(job, old):
        raise _describe_failed_start(job, ran)
    asked_ha = "Requesting HA start" in ran.stdout
    seconds = HA_START_SECONDS + job.start_seconds - QM_START_SECONDS if asked_ha else START_VERIFY_SECONDS
    result = verify_running(job, seconds, asked_ha)
    if old and read_pid(job.host) == old:
        raise failure("verb-failed", f"the VM runs, but still in the old process {old}", "cycle")
    return result


def _runs_in_new_process(job: Job, old: int) -> bool:
    pid = read_pid(job.host)
    return pid is not None and pid != old and has_process(observe(job.host)) is True


def _describe_failed_start(job: Job, ran: CommandResult) -> Ended:
    """Return the failure of a `qm start`; it advises another start unless that is also certain to fail."""
    lines = [*ran.stdout.splitlines()[-5:], *ran.stderr.splitlines()[-5:]]
    locks = [f"the lock file is held by {holder}" for holder in flock_holders(job.host)]
    config = cluster_view(job.host).config_text
    trouble = None if locks else find_start_trouble(job.host, config, AFTER_FAILURE_SECONDS)
    if trouble and trouble.code:
        return failure(trouble.code, f"qm start failed: {trouble.cause}; fix that, then start", "", *lines)
    sentence = f"qm start failed: {_find_cause(ran.stderr)}"
    return failure("verb-failed", sentence, "" if locks else "start", *lines, *locks)


def _find_cause(stderr: str) -> str:
    """Return the end of `qm`'s last line, which may begin with the whole command line of QEMU."""
    last = (stderr.strip().splitlines() or ["it said nothing"])[-1]
    return last.rpartition("failed: ")[2][-CAUSE_CHARS:]


def _abandon_start(job: Job, seconds: float) -> Ended:
    """End what a start that took too long has left, and return its failure.

    The start must not happen after it was reported as failed. If nothing can end it, the failure says so.
    """
    for pid in leftover_pids(job.host):
        kill_half_started(job, pid)
    sentence = f"qm start did not end in {seconds:.0f} s"
    if left := leftover_pids(job.host):
        sentence = f"{sentence}, and {name_processes(left)} left, so the VM may still start when the storage answers"
        return failure("leftover", sentence, "", *describe_leftovers(left), exit_code=DEADLINE)
    if job.survivors:
        sentence = f"{sentence}, and its worker can't be ended, so the VM may still start when the storage answers"
        return failure("deadline", sentence, "", *job.survivors, exit_code=DEADLINE)
    return failure("deadline", f"{sentence}, so qm start and its processes were killed", "start", exit_code=DEADLINE)


def verify_running(job: Job, seconds: float, asked_ha: bool = False) -> Result:
    """Return done once QEMU itself says running; fail with any other state that QEMU reports.

    If HA was asked, also check whether HA has moved the VM to another node.
    """
    job.enter("verify")
    until = time.monotonic() + job.seconds_left(seconds)
    facts = observe(job.host)
    # A QEMU that has ended does not come back; only HA would start it later.
    while (state := vm_state(facts)) != "running" and (asked_ha or state != "stopped") and time.monotonic() < until:
        if asked_ha:
            time.sleep(0.5)  # each look at /etc/pve costs a process, and HA's manager works in rounds of 10 s
            refuse_move(job)
        time.sleep(0.05)
        facts = observe(job.host)
    if state != "running":
        raise _describe_not_running(job, state, describe_sources(facts), asked_ha)
    job.say(f"verify: running ({describe_sources(facts)})")
    warn_of_ha_stop(job)
    return Result(DONE, state, extra=_report_guest_agent(job))


def warn_of_ha_stop(job: Job) -> None:
    """Warn if HA wants this running VM stopped: HA stops it all the same."""
    view = cluster_view(job.host, 1.0)
    if view.ha in AT_REST:
        job.warnings.append(describe_ha(view))


def _describe_not_running(job: Job, state: str, source: str, asked_ha: bool) -> Ended:
    if not asked_ha:
        return failure("verb-failed", f"the VM is {state} and not running", "forensics", source)
    view = cluster_view(job.host)
    later = "HA took the request and may still start it"
    lines = (source, later, *prove_ha(job.host.vmid, view if view.answers else Cluster(ha="started")))
    sentence = f"HA was asked to start the VM, which is still {state}: look at ha-manager status"
    return failure("ha-holds", sentence, "", *lines)


def _report_guest_agent(job: Job) -> dict[str, object]:
    """Report whether the guest agent answers, where the VM has one. It does not wait for a guest that boots."""
    word = guest_agent_state(job.host, AGENT_PING_SECONDS)
    if word:
        job.say("verify: the guest agent " + ("answers" if word == "answers" else "does not answer yet"))
    return {"agent": word} if word else {}
