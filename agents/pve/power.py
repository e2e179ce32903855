"""The four verbs that change power, as stages. Each decides before it acts whether it can end well.

reset ends running; start makes it run; stop proves that nothing is left; cycle never stops what it could not start
again.
"""

import time
from collections.abc import Callable
from functools import partial

from .cluster import Cluster, cluster_view
from .forensics import BUDGET, before_acting
from .ha import ha_line, ha_manages
from .job import Job
from .lockrules import (
    ENDS_WITH_QEMU,
    LOOK_SECONDS,
    await_holders,
    refuse_flock,
    refuse_locked,
    refuse_reset,
    refuse_resume,
    refused,
)
from .locks import cleanups, flock_holders
from .obstacles import TROUBLES
from .preflight import can_start, nothing_left, refuse_deaf_ha, refuse_elsewhere, refuse_unstartable
from .qmp import Qmp, QmpError, QmpSilent
from .result import Ended, Result, Verdict
from .standby import stand_by
from .starting import start_again, start_process, verify_running
from .stopping import MOST_SECONDS, as_ended, call_off_reboot, failed, qemu_lives, stop_process
from .times import AFTERMATH_BEGINS_SECONDS, AFTERMATH_SECONDS, LADDER_SECONDS, START_VERIFY_SECONDS
from .vmstate import Facts, conclude, has_process, leftovers, observe, sources
from .words import DONE, REFUSED, STORAGE_HUNG, STRANDED


def reset(job: Job, facts: Facts) -> Result:
    """Press the reset button by QMP; end running. Needs neither `qm` nor an /etc/pve that answers."""
    state = conclude(facts)
    view = cluster_view(job.host)
    if state == "stopped":
        refuse_elsewhere(job, view)
        raise refused("not-running", f"VM {job.host.vmid} is stopped; there is nothing to reset", "start")
    if not facts.qmp:
        sentence = "QEMU does not answer on its monitor; a reset can't reach it"
        raise refused("qemu-silent", *_cycle_or_mend(view, sentence), sources(facts))
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
    if conclude(facts) == "stopped":
        facts = _after_a_start(job, facts)
    view = cluster_view(job.host)
    if conclude(facts) == "stopped":
        refuse_elsewhere(job, view)
        nothing_left(job)
    else:
        _refuse_stop(job, view)
        _warn_of_start(job, view)
    past_preconditions(job, facts)
    if conclude(facts) == "stopped":
        call_off_reboot(job)
        job.say("stop: already stopped")
    else:
        stop_process(job, facts, lambda view: _refuse_stop(job, view))
    again = _await_aftermath(job)
    if has_process(again):  # what was at work already, a start or a cleanup with a reboot, has come to its end
        job.say(f"stop: the VM was started meanwhile, as process {again.pid}; stopping that")
        try:
            stop_process(job, again, lambda view: _refuse_stop(job, view))
        except Ended as ended:  # no refusal any more: the first QEMU is gone already
            sentence = f"the VM was stopped and was started again meanwhile: {ended.verdict.sentence}"
            raise failed("started-again", sentence, "", *ended.verdict.evidence) from None
        _refuse_return(job, _await_aftermath(job))
    _say_what_ha_does(job)
    return Result(DONE, "stopped")


def _after_a_start(job: Job, facts: Facts) -> Facts:
    """Wait for a `qm start` that is at work on the VM: what it starts is to be stopped."""
    if any(holder.kind == "start" for holder in flock_holders(job.host)):
        _await_start(job)
        return observe(job.host)
    return facts


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


def _warn_of_start(job: Job, view: Cluster) -> None:
    if view.answers and not view.quorate:
        job.warnings.append(
            "this node has no quorum: the stop works, but a start is refused until the node has a quorum again"
        )


def _is_there(job: Job) -> bool:
    return has_process(observe(job.host)) is True


def _await_aftermath(job: Job) -> Facts:
    """Look once more when qmeventd's `qm cleanup` of this VM has ended: `stop` means stopped. It begins a moment after
    QEMU's end, and starts the VM where a reboot was pending."""
    began = time.monotonic()
    while (passed := time.monotonic() - began) < AFTERMATH_SECONDS:
        if not cleanups(job.host) and passed > AFTERMATH_BEGINS_SECONDS:
            break
        time.sleep(LOOK_SECONDS)
    _await_start(job)
    return observe(job.host)


def _refuse_return(job: Job, facts: Facts) -> None:
    if has_process(facts):
        sentence = (
            f"the VM was stopped but runs again, as process {facts.pid}: HA, a reboot or a person started it; find out "
            "which, then stop it again"
        )
        raise failed("started-again", sentence, "stop", sources(facts), *ha_lines(job))


def _refuse_stop(job: Job, view: Cluster) -> None:
    refuse_deaf_ha(job, view)
    refuse_locked(job, view)


def ha_lines(job: Job) -> tuple[str, ...]:
    view = cluster_view(job.host)
    return (ha_line(view.ha, view.ha_seen),) if ha_manages(view.ha) else ()


def _say_what_ha_does(job: Job) -> None:
    """A VM that was stopped behind HA's back does not stay so: say what HA wants of it."""
    job.warnings += ha_lines(job)


def start(job: Job, facts: Facts) -> Result:
    """Make the VM run: `qm start` when it is stopped, QMP cont when it is paused."""
    state = conclude(facts)
    if state in ("wedged", "unknown"):
        sentence = "a QEMU process exists but does not answer; a start can't help"
        raise refused("qemu-silent", *_cycle_or_mend(cluster_view(job.host), sentence), sources(facts))
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
    runs = conclude(facts) != "stopped"
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
        if _is_on(job, facts) or leftovers(job.host):
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
        _heed(job, before_acting(job, facts))
    except Ended:
        raise
    except Exception as error:  # evidence before action, but never instead of it: a defect there must not stop a rescue
        job.warnings.append(f"the evidence could not be taken: {type(error).__name__}: {error}")
    try:
        job.memory.set_last(job.record.id)
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
