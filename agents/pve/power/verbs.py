"""The four verbs that change power, as stages. Each decides before it acts whether it can succeed.

reset and start make the VM run; stop proves that no process is left; cycle never stops a VM that it could
not start again.
"""

from collections.abc import Callable

from ..budget import START_VERIFY_SECONDS
from ..forensics.obstacles import TROUBLES
from ..forensics.startable import NO_QM
from ..host.cluster import Cluster, cluster_view, is_stale_copy
from ..host.pve_tasks import flock_holders
from ..host.qmp import Qmp, QmpError, QmpSilent
from ..host.vmstate import Facts, describe_sources, has_process, leftover_pids, observe, vm_state
from ..jobs.job import Job
from ..jobs.result import Ended, Result
from ..words import DONE, ELSEWHERE, STRANDED, WOULD_NOT_START
from .aftermath import await_aftermath, await_start_under_way, have_ha_leave_it_off, refuse_return, warn_of_ha
from .begin import begin_change, ended_from_error, failure, refusal
from .kill import is_qemu_alive
from .locked import ENDS_WITH_QEMU, refuse_flock, refuse_locked, refuse_reset, refuse_resume
from .preflight import (
    refuse_copy,
    refuse_deaf_ha,
    refuse_failing_start,
    refuse_leftovers,
    refuse_unstartable,
)
from .standby import stand_by
from .start import start_again, start_process, verify_running, warn_of_ha_stop
from .stop import call_off_reboot, refuse_move, stop_process


def reset(job: Job, facts: Facts) -> Result:
    """Reset the VM by QMP; verify that the VM runs. It needs neither `qm` nor an /etc/pve that answers."""
    state = vm_state(facts)
    view = cluster_view(job.host)
    if state == "stopped":
        raise refusal("not-running", f"VM {job.host.vmid} is stopped; there is nothing to reset", "start")
    if not facts.qmp:
        sentence = "QEMU does not answer on its monitor, so a reset can't reach QEMU"
        raise refusal("qemu-silent", *_advise_cycle(view, sentence), describe_sources(facts))
    refuse_copy(job, view, state)  # a VM that is moving between nodes must keep its memory
    refuse_reset(job, view, state)
    begin_change(job, facts)
    job.enter("reset")
    try:
        with Qmp(job.host.qmp, job.seconds_left(10)) as qmp:
            was = qmp.status()
            if view.answers:  # checked once more, because the evidence took time
                refuse_reset(job, cluster_view(job.host), was)
            qmp.command("system_reset")
            qmp.wait_event("RESET")
            job.say(f"reset: QEMU accepted the reset and reported RESET (the VM was {was})")
            if was != "running":
                qmp.command("cont")
                job.say("reset: cont, because a VM that was not running stays in prelaunch")
    except QmpError as error:
        raise _monitor_failure(job, f"QEMU refused the reset: {error}") from None
    except QmpSilent as error:
        raise _monitor_failure(job, f"the reset was sent; {error}") from None
    return verify_running(job, 10)


def _monitor_failure(job: Job, sentence: str) -> Ended:
    """Return the failure of a reset, with the advice to cycle unless the storage is known to hang."""
    if job.anyway:  # hung storage is the only reason for which a reset is refused until `anyway`
        return failure("verb-failed", f"{sentence}; the VM's storage hangs, so fix the storage first")
    return failure("verb-failed", *_advise_cycle(cluster_view(job.host), sentence))


def _advise_cycle(view: Cluster, sentence: str) -> tuple[str, str]:
    """Return a sentence and its advice, which is a cycle unless that is certain to be refused."""
    if view.trouble:
        return f"{sentence}; {TROUBLES[view.trouble][0]}; run systemctl restart pve-cluster, then cycle it", ""
    if not view.quorate:
        return f"{sentence}; this node has no quorum, so a start would fail: see pvecm status, then cycle it", ""
    return sentence, "cycle"


def stop(job: Job, facts: Facts) -> Result:
    """Stop the VM; prove that no process of it is left and that no start is under way."""
    if vm_state(facts) == "stopped":
        facts = await_start_under_way(job, facts)
    view = cluster_view(job.host)
    is_copy = is_stale_copy(job.host, view)
    if vm_state(facts) == "stopped":
        refuse_leftovers(job)
        refuse_deaf_ha(job, view)
    else:
        _refuse_stop(job, view)
        if view.answers and not view.quorate:
            job.warnings.append(
                "this node has no quorum: the stop works, but a start is refused until the node has a quorum again"
            )
    begin_change(job, facts)
    if vm_state(facts) == "stopped":
        call_off_reboot(job)
        job.say("stop: already stopped")
        have_ha_leave_it_off(job)
    else:
        stop_process(job, facts, lambda view: _refuse_stop(job, view))
    again = await_aftermath(job)
    if has_process(again):  # a start, or a cleanup that starts the VM again, was under way and has ended
        job.say(f"stop: the VM was started meanwhile, as process {again.pid}; stopping that process")
        try:
            stop_process(job, again, lambda view: _refuse_stop(job, view))
        except Ended as ended:  # the verb has already stopped the first QEMU, so its end can't be a refusal
            sentence = f"the VM was stopped and was started again meanwhile: {ended.verdict.sentence}"
            raise failure("started-again", sentence, "", *ended.verdict.evidence) from None
        refuse_return(job, await_aftermath(job))
    if is_copy:  # the VM itself is on another node, and may run there
        job.warnings.append(f"the QEMU that was stopped was a stale copy; the VM is on node {view.node}, so look there")
        return Result(DONE, ELSEWHERE)
    refuse_move(job)
    warn_of_ha(job)
    return Result(DONE, "stopped")


def _refuse_stop(job: Job, view: Cluster) -> None:
    if not is_stale_copy(job.host, view):  # HA's actions concern the VM itself, which is on another node
        refuse_deaf_ha(job, view)
        refuse_locked(job, view)


def start(job: Job, facts: Facts) -> Result:
    """Make the VM run: `qm start` if it is stopped, QMP cont if it is paused."""
    state = vm_state(facts)
    if state in ("wedged", "unknown"):
        sentence = "a QEMU process exists but does not answer, so a start can't help"
        raise refusal("qemu-silent", *_advise_cycle(cluster_view(job.host), sentence), describe_sources(facts))
    if state == "stopped":
        refuse_failing_start(job)
        refuse_leftovers(job)
        begin_change(job, facts)
        return start_process(job, 0)
    return resume(job, facts, state)


def resume(job: Job, facts: Facts, state: str) -> Result:
    """Let a paused VM continue by QMP cont; a VM that runs already is left alone."""
    view = cluster_view(job.host)
    refuse_copy(job, view, state)
    if state != "running":
        refuse_resume(job, view)
    begin_change(job, facts)
    job.enter("start")
    if state == "running":
        job.say("start: already running")
        warn_of_ha_stop(job)
        return Result(DONE, state)
    try:
        with Qmp(job.host.qmp, job.seconds_left(5)) as qmp:
            qmp.command("cont")
    except (QmpError, QmpSilent) as error:
        raise _monitor_failure(job, f"the VM was {state} and did not continue: {error}") from None
    job.say(f"start: the VM continues (it was {state})")
    return verify_running(job, 10)


def cycle(job: Job, facts: Facts) -> Result:
    """Stop, then start with a new QEMU process; refuse when a start could not follow.

    The VM is started even if something else ended it meanwhile.
    """
    runs = vm_state(facts) != "stopped"
    refuse_failing_start(job, stops_first=runs)
    if not runs:
        refuse_leftovers(job)
    begin_change(job, facts)
    old = facts.pid or 0
    try:
        stand_by(job)
        if runs:
            _stop_for_cycle(job, facts)
            refuse_move(job)
        return start_again(job, old)
    except Exception as error:  # a defect or a host without memory must not leave the VM off unreported
        ended = ended_from_error(job, error)
        if ended.verdict.code in ("moved", "job-killed") or _is_on(job, facts):
            raise ended from None
        raise _describe_stranded(job, ended) from None


def _is_on(job: Job, facts: Facts) -> bool:
    """Tell whether the VM is on or may be on; if that can't be observed, judge by the stage of the job."""
    try:
        return is_qemu_alive(job, facts) or has_process(observe(job.host)) is not False
    except Exception:
        return job.stage not in ("start", "verify")


def _describe_stranded(job: Job, ended: Ended) -> Ended:
    """Return the failure for a VM that is off; it advises a start unless a start is certain to be refused."""
    advice = "" if ended.verdict.code in (WOULD_NOT_START, NO_QM) else "start"
    evidence = list(ended.verdict.evidence)
    try:
        refuse_unstartable(job, cluster_view(job.host), stops_first=False)
        refuse_leftovers(job)
        locks = [f"the lock file is held by {each}" for each in flock_holders(job.host) if each.kind != "cleanup"]
        advice = "" if locks else advice
        evidence += [line for line in locks if line not in evidence]
    except Ended as obstacle:
        if obstacle.verdict.code == "other-node":  # the VM was moved while it was off, and may run on the other node
            return failure("moved", f"the VM was stopped, and {obstacle.verdict.sentence}", "", *evidence)
        advice = ""
        evidence += [obstacle.verdict.sentence, *obstacle.verdict.evidence]
    except Exception as error:
        evidence.append(f"the host could not check what would prevent a start: {type(error).__name__}")
    sentence = f"the VM was stopped and could not be started: {ended.verdict.sentence}"
    return failure("stranded", sentence, advice, *evidence, exit_code=STRANDED)


def _stop_for_cycle(job: Job, facts: Facts) -> None:
    """Stop, and leave enough of the deadline for the start.

    A failed stop counts as done if the VM is off anyway, because otherwise the VM would stay off.
    """
    job.reserved = job.start_seconds + START_VERIFY_SECONDS / 2
    try:
        stop_process(job, facts, lambda view: _refuse_cycle(job, view))
    except Exception as error:
        ended = ended_from_error(job, error)
        if _is_on(job, facts) or leftover_pids(job.host):
            raise ended from None
        job.say(f"stop: {ended.verdict.sentence}; the VM is off all the same, so it is started now", "stderr")
    finally:
        job.reserved = 0.0


def _refuse_cycle(job: Job, view: Cluster) -> None:
    refuse_unstartable(job, view, stops_first=True)
    if job.stage == "stop":  # `qm stop` has failed, so the VM may be locked by a task that will not stop it
        refuse_flock(job, ENDS_WITH_QEMU)


POWER: dict[str, Callable[[Job, Facts], Result]] = {"reset": reset, "stop": stop, "start": start, "cycle": cycle}
