"""The four verbs that change power, as stages. Each decides before it acts whether it can end well.

reset ends running; start makes it run; stop proves that nothing is left; cycle never stops what it could not start
again.
"""

from collections.abc import Callable

from .cluster import Cluster, cluster_view
from .forensics import before_acting
from .ha import ha_line, ha_manages
from .job import Job
from .lockrules import SHUTDOWNS, refuse_flock, refuse_locked, refuse_reset, refuse_resume, refused
from .preflight import can_start, nothing_left, refuse_deaf_ha, refuse_elsewhere, refuse_unstartable
from .qmp import Qmp, QmpError, QmpSilent
from .result import Ended, Result
from .standby import stand_by
from .starting import start_again, start_process, verify_running
from .stopping import failed, qemu_lives, stop_process
from .vmstate import Facts, conclude, has_process, observe, sources
from .words import DONE, STRANDED


def reset(job: Job, facts: Facts) -> Result:
    """Press the reset button by QMP; end running. Needs neither `qm` nor an /etc/pve that answers."""
    state = conclude(facts)
    if state == "stopped":
        refuse_elsewhere(job, cluster_view(job.host))
        raise refused("not-running", f"VM {job.host.vmid} is stopped; there is nothing to reset", "start")
    if not facts.qmp:
        raise refused(
            "qemu-silent", "QEMU does not answer on its monitor; a reset can't reach it", "cycle", sources(facts)
        )
    view = cluster_view(job.host)
    if state != "running":  # one that comes from another node or went there: its memory is not to be touched
        refuse_elsewhere(job, view)
    refuse_reset(job, view, state)
    past_preconditions(job)
    job.enter("reset")
    try:
        with Qmp(job.host.qmp, job.left(10)) as qmp:
            was = qmp.status()
            if view.answers:  # once more: the evidence took its time
                refuse_reset(job, cluster_view(job.host), was)
            qmp.command("system_reset")
            qmp.wait_event("RESET")
            job.say(f"reset: QEMU accepted it and reported RESET (it was {was})")
            if was != "running":
                qmp.command("cont")
                job.say("reset: cont, because a VM that was not running stays in prelaunch")
    except QmpError as error:
        raise failed("verb-failed", f"QEMU refused the reset: {error}", "cycle") from None
    except QmpSilent as error:
        raise failed("verb-failed", f"the reset was sent; {error}", "cycle") from None
    return verify_running(job, 10)


def stop(job: Job, facts: Facts) -> Result:
    """Stop the VM and prove that no process of it is left."""
    view = cluster_view(job.host)
    if conclude(facts) == "stopped":
        refuse_elsewhere(job, view)
        nothing_left(job)
        past_preconditions(job)
        job.say("stop: already stopped")
    else:
        _refuse_stop(job, view)
        past_preconditions(job)
        stop_process(job, facts, lambda view: _refuse_stop(job, view))
    _say_what_ha_does(job)
    return Result(DONE, "stopped")


def _refuse_stop(job: Job, view: Cluster) -> None:
    refuse_deaf_ha(job, view)
    refuse_locked(job, view)


def _say_what_ha_does(job: Job) -> None:
    """A VM that was stopped behind HA's back does not stay so: say what HA wants of it."""
    view = cluster_view(job.host)
    if ha_manages(view.ha):
        job.warnings.append(ha_line(view.ha, view.ha_seen))


def start(job: Job, facts: Facts) -> Result:
    """Make the VM run: `qm start` when it is stopped, QMP cont when it is paused."""
    state = conclude(facts)
    if state in ("wedged", "unknown"):
        raise refused(
            "qemu-silent", "a QEMU process exists but does not answer; a start can't help", "cycle", sources(facts)
        )
    if state == "stopped":
        can_start(job)
        nothing_left(job)
        past_preconditions(job)
        return start_process(job, 0)
    return resume(job, state)


def resume(job: Job, state: str) -> Result:
    if state != "running":
        view = cluster_view(job.host)
        refuse_elsewhere(job, view)
        refuse_resume(job, view)
    past_preconditions(job)
    job.enter("start")
    if state == "running":
        job.say("start: already running")
        return Result(DONE, state)
    try:
        with Qmp(job.host.qmp, job.left(5)) as qmp:
            qmp.command("cont")
    except (QmpError, QmpSilent) as error:
        raise failed("verb-failed", f"the VM was {state} and did not continue: {error}", "cycle") from None
    job.say(f"start: continued (it was {state})")
    return verify_running(job, 10)


def cycle(job: Job, facts: Facts) -> Result:
    """Stop, then start with a new QEMU process; refuse when a start could not follow."""
    runs = conclude(facts) != "stopped"
    can_start(job, stops_first=runs)
    if not runs:
        nothing_left(job)
    past_preconditions(job)
    old = facts.pid or 0
    stand_by(job)
    try:
        if runs:
            stop_process(job, facts, lambda view: _refuse_cycle(job, view))
        return start_again(job, old)
    except Ended as ended:
        lives = qemu_lives(job, facts) or has_process(observe(job.host)) is not False
        if lives or ended.verdict.code == "moved":
            raise  # not off
        raise failed(
            "stranded",
            f"the VM was stopped and could not be started: {ended.verdict.sentence}",
            "start",
            *ended.verdict.evidence,
            exit_code=STRANDED,
        ) from None


def _refuse_cycle(job: Job, view: Cluster) -> None:
    refuse_unstartable(job, view, stops_first=True)
    if job.stage == "stop":  # `qm stop` has failed: a worker of it, or another's, that still holds the flock ends never
        refuse_flock(job, SHUTDOWNS)


def past_preconditions(job: Job) -> None:
    """From here on something changes: become `last`, and take the evidence before it is gone."""
    try:
        job.memory.set_last(job.record.id)
    except OSError:
        job.warnings.append("the host could not record this job as the last one")
    job.enter("forensics")
    try:
        before_acting(job)
    except Ended:
        raise
    except Exception as error:  # evidence before action, but never instead of it: a defect there must not stop a rescue
        job.warnings.append(f"the evidence could not be taken: {type(error).__name__}: {error}")


Verb = Callable[[Job, Facts], Result]
POWER: dict[str, Verb] = {"reset": reset, "stop": stop, "start": start, "cycle": cycle}
