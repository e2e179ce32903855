"""The four verbs that change power, as stages. Each decides before it acts whether it can end well.

reset ends running; start makes it run; stop proves that nothing is left; cycle never stops what it could not start
again.
"""

from collections.abc import Callable

from ..forensics.capture import ensure_evidence
from ..forensics.obstacles import TROUBLES
from ..host.cluster import Cluster, cluster_view
from ..host.pve_tasks import flock_holders
from ..host.qmp import Qmp, QmpError, QmpSilent
from ..host.times import START_VERIFY_SECONDS
from ..host.vmstate import Facts, describe_sources, has_process, leftover_pids, observe, vm_state
from ..jobs.job import Job
from ..jobs.result import Ended, Result, Verdict
from ..words import DONE, REFUSED, STORAGE_HUNG, STRANDED
from .aftermath import await_aftermath, await_start_under_way, refuse_return, say_what_ha_does
from .locked import ENDS_WITH_QEMU, refuse_flock, refuse_locked, refuse_reset, refuse_resume, refused
from .preflight import can_start, nothing_left, refuse_deaf_ha, refuse_elsewhere, refuse_unstartable
from .standby import stand_by
from .start import start_again, start_process, verify_running
from .stop import as_ended, call_off_reboot, failed, qemu_lives, stop_process


def reset(job: Job, facts: Facts) -> Result:
    """Press the reset button by QMP; end running. Needs neither `qm` nor an /etc/pve that answers."""
    state = vm_state(facts)
    view = cluster_view(job.host)
    if state == "stopped":
        refuse_elsewhere(job, view)
        raise refused("not-running", f"VM {job.host.vmid} is stopped; there is nothing to reset", "start")
    if not facts.qmp:
        sentence = "QEMU does not answer on its monitor; a reset can't reach it"
        raise refused("qemu-silent", *_cycle_or_mend(view, sentence), describe_sources(facts))
    if state != "running":  # one that comes from another node or went there: its memory is not to be touched
        refuse_elsewhere(job, view)
    refuse_reset(job, view, state)
    past_preconditions(job, facts)
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
        raise _monitor_failed(job, f"QEMU refused the reset: {error}") from None
    except QmpSilent as error:
        raise _monitor_failed(job, f"the reset was sent; {error}") from None
    return verify_running(job, 10)


def _monitor_failed(job: Job, sentence: str) -> Ended:
    """Advise a cycle, but not where the storage is known to hang: a person has had the reset done all the same."""
    if job.anyway:
        return failed("verb-failed", f"{sentence}; the VM's storage hangs: mend it first")
    return failed("verb-failed", *_cycle_or_mend(cluster_view(job.host), sentence))


def _cycle_or_mend(view: Cluster, sentence: str) -> tuple[str, str]:
    """Return a sentence and an advice: a cycle helps, unless it is certain to be refused."""
    if view.trouble:
        return f"{sentence}; {TROUBLES[view.trouble][0]}; run systemctl restart pve-cluster, then cycle it", ""
    if not view.quorate:
        return f"{sentence}; this node has no quorum, so a start would fail: see pvecm status, then cycle it", ""
    return sentence, "cycle"


def stop(job: Job, facts: Facts) -> Result:
    """Stop the VM and prove that no process of it is left, and that nobody is about to start it."""
    if vm_state(facts) == "stopped":
        facts = await_start_under_way(job, facts)
    view = cluster_view(job.host)
    if vm_state(facts) == "stopped":
        refuse_elsewhere(job, view)
        nothing_left(job)
    else:
        _refuse_stop(job, view)
        _warn_of_start(job, view)
    past_preconditions(job, facts)
    if vm_state(facts) == "stopped":
        call_off_reboot(job)
        job.say("stop: already stopped")
    else:
        stop_process(job, facts, lambda view: _refuse_stop(job, view))
    again = await_aftermath(job)
    if has_process(again):  # what was at work already, a start or a cleanup with a reboot, has come to its end
        job.say(f"stop: the VM was started meanwhile, as process {again.pid}; stopping that")
        try:
            stop_process(job, again, lambda view: _refuse_stop(job, view))
        except Ended as ended:  # no refusal any more: the first QEMU is gone already
            sentence = f"the VM was stopped and was started again meanwhile: {ended.verdict.sentence}"
            raise failed("started-again", sentence, "", *ended.verdict.evidence) from None
        refuse_return(job, await_aftermath(job))
    say_what_ha_does(job)
    return Result(DONE, "stopped")


def _warn_of_start(job: Job, view: Cluster) -> None:
    if view.answers and not view.quorate:
        job.warnings.append(
            "this node has no quorum: the stop works, but a start is refused until the node has a quorum again"
        )


def _refuse_stop(job: Job, view: Cluster) -> None:
    refuse_deaf_ha(job, view)
    refuse_locked(job, view)


def start(job: Job, facts: Facts) -> Result:
    """Make the VM run: `qm start` when it is stopped, QMP cont when it is paused."""
    state = vm_state(facts)
    if state in ("wedged", "unknown"):
        sentence = "a QEMU process exists but does not answer; a start can't help"
        raise refused("qemu-silent", *_cycle_or_mend(cluster_view(job.host), sentence), describe_sources(facts))
    if state == "stopped":
        can_start(job)
        nothing_left(job)
        past_preconditions(job, facts)
        return start_process(job, 0)
    return resume(job, facts, state)


def resume(job: Job, facts: Facts, state: str) -> Result:
    if state != "running":
        view = cluster_view(job.host)
        refuse_elsewhere(job, view)
        refuse_resume(job, view)
    past_preconditions(job, facts)
    job.enter("start")
    if state == "running":
        job.say("start: already running")
        return Result(DONE, state)
    try:
        with Qmp(job.host.qmp, job.left(5)) as qmp:
            qmp.command("cont")
    except (QmpError, QmpSilent) as error:
        raise _monitor_failed(job, f"the VM was {state} and did not continue: {error}") from None
    job.say(f"start: continued (it was {state})")
    return verify_running(job, 10)


def cycle(job: Job, facts: Facts) -> Result:
    """Stop, then start with a new QEMU process; refuse when a start could not follow. Whoever ends the VM meanwhile,
    once it is off it is started."""
    runs = vm_state(facts) != "stopped"
    can_start(job, stops_first=runs)
    if not runs:
        nothing_left(job)
    past_preconditions(job, facts)
    old = facts.pid or 0
    try:
        stand_by(job)
        if runs:
            _stop_for_cycle(job, facts)
        return start_again(job, old)
    except Exception as error:  # a defect of ours, too, or a host without memory, must not leave the VM off unsaid
        ended = as_ended(job, error)
        if ended.verdict.code in ("moved", "job-killed") or _is_on(job, facts):
            raise ended from None
        raise _stranded(job, ended) from None


def _is_on(job: Job, facts: Facts) -> bool:
    """Tell whether the VM lives, or may: where that can't be found out, by how far the job had come."""
    try:
        return qemu_lives(job, facts) or has_process(observe(job.host)) is not False
    except Exception:
        return job.stage not in ("start", "verify")


def _stranded(job: Job, ended: Ended) -> Ended:
    """Return the answer for a VM that is off. A start is advised where none is certain to be refused."""
    advice, evidence = "start", list(ended.verdict.evidence)
    try:
        refuse_unstartable(job, cluster_view(job.host), stops_first=False)
        nothing_left(job)
        held = [f"held by {holder}" for holder in flock_holders(job.host) if holder.kind != "cleanup"]
        advice = "" if held else "start"
        evidence += [line for line in held if line not in evidence]
    except Ended as obstacle:
        advice = ""
        evidence += [obstacle.verdict.sentence, *obstacle.verdict.evidence]
    except Exception as error:
        evidence.append(f"what stands in the way of a start could not be told: {type(error).__name__}")
    sentence = f"the VM was stopped and could not be started: {ended.verdict.sentence}"
    return failed("stranded", sentence, advice, *evidence, exit_code=STRANDED)


def _stop_for_cycle(job: Job, facts: Facts) -> None:
    """Stop, and leave enough of the deadline for the start. A stop that failed counts where the VM is off all the same:
    left alone it would stay so."""
    job.reserved = job.start_seconds + START_VERIFY_SECONDS / 2
    try:
        stop_process(job, facts, lambda view: _refuse_cycle(job, view))
    except Exception as error:
        ended = as_ended(job, error)
        if _is_on(job, facts) or leftover_pids(job.host):
            raise ended from None
        job.say(f"stop: {ended.verdict.sentence}; the VM is off all the same, so it is started now", "stderr")
    finally:
        job.reserved = 0.0


def _refuse_cycle(job: Job, view: Cluster) -> None:
    refuse_unstartable(job, view, stops_first=True)
    if job.stage == "stop":  # `qm stop` has failed: somebody who neither stops the VM nor cleans up works on it
        refuse_flock(job, ENDS_WITH_QEMU)


def past_preconditions(job: Job, facts: Facts) -> None:
    """Take the evidence before it is gone, heed it, and become `last`: from here on something changes."""
    job.enter("forensics")
    try:
        _heed(job, ensure_evidence(job, facts))
    except Ended:
        raise
    except Exception as error:  # evidence before action, but never instead of it: a defect there must not stop a rescue
        job.warnings.append(f"the evidence could not be taken: {type(error).__name__}: {error}")
    try:
        job.store.set_last(job.record.id)
    except OSError:
        job.warnings.append("the host could not record this job as the last one")


def _heed(job: Job, verdict: Verdict | None) -> None:
    """Refuse a reset or a cycle that the evidence shows to end with a VM that nobody can start, unless a person who
    has seen that says so: a reset blocks in QEMU as well, until the storage answers."""
    if verdict is None or verdict.code != STORAGE_HUNG or job.record.verb not in ("reset", "cycle"):
        return
    if job.anyway == STORAGE_HUNG:
        job.warnings.append(f"the storage of this VM does not answer; {job.record.by} asked for the verb anyway")
        return
    sentence = (
        "this VM's storage does not answer: QEMU could not end and no start could follow until the storage answers; "
        "mend the storage first"
    )
    raise Ended(REFUSED, Verdict(STORAGE_HUNG, sentence, "", (*verdict.evidence, *_MEND)), anyway=STORAGE_HUNG)


_MEND = (
    "by hand: mend the storage (pvesm status, dmesg, the network to a NAS); QEMU goes on by itself then",
    "once the storage answers, take forensics again: until then this proof refuses the verb for up to 60 s",
)


Verb = Callable[[Job, Facts], Result]
POWER: dict[str, Verb] = {"reset": reset, "stop": stop, "start": start, "cycle": cycle}
