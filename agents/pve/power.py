"""The four verbs that change power, as stages. Each decides before it acts whether it can end well.

reset ends running; start makes it run; stop proves that nothing is left; cycle never stops what it could not start
again.
"""

import time
from collections.abc import Callable

from .forensics import before_acting
from .job import Job
from .preflight import can_start, cluster_view, nothing_left, refuse_locked, refused
from .qmp import Qmp, QmpError, QmpSilent
from .result import Ended, Result
from .standby import stand_by
from .stopping import HA_SECONDS, failed, stop_process
from .vmstate import Facts, conclude, has_process, observe, read_pid, sources
from .words import DEADLINE, DONE, STRANDED

SECOND_START_SECONDS = 2.0


def reset(job: Job, facts: Facts) -> Result:
    """Press the reset button by QMP; end running. Needs neither `qm` nor an /etc/pve that answers."""
    state = conclude(facts)
    if state == "stopped":
        raise refused("not-running", f"VM {job.host.vmid} is stopped; there is nothing to reset", "start")
    if not facts.qmp:
        raise refused(
            "qemu-silent", "QEMU does not answer on its monitor; a reset can't reach it", "cycle", sources(facts)
        )
    refuse_locked(job, cluster_view(job.host))
    past_preconditions(job)
    job.enter("reset")
    try:
        with Qmp(job.host.qmp, job.left(10)) as qmp:
            was = qmp.status()
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
    if conclude(facts) == "stopped":
        nothing_left(job)
        past_preconditions(job)
        job.say("stop: already stopped")
        return Result(DONE, "stopped")
    refuse_locked(job, cluster_view(job.host))
    past_preconditions(job)
    stop_process(job, facts)
    return Result(DONE, "stopped")


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
        refuse_locked(job, cluster_view(job.host))
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
    can_start(job)
    if conclude(facts) == "stopped":
        nothing_left(job)
    past_preconditions(job)
    old = facts.pid or 0
    stand_by(job)
    try:
        if conclude(facts) != "stopped":
            stop_process(job, facts)
        return start_again(job, old)
    except Ended as ended:
        if has_process(observe(job.host)) is not False:
            raise  # not off
        raise failed(
            "stranded",
            f"the VM was stopped and could not be started: {ended.verdict.sentence}",
            "start",
            *ended.verdict.evidence,
            exit_code=STRANDED,
        ) from None


def start_again(job: Job, old: int) -> Result:
    """Start what a cycle has stopped; a first failure may be a lock that somebody else held, so try a second time."""
    try:
        return start_process(job, old)
    except Ended as ended:
        if ended.exit_code == DEADLINE or conclude(observe(job.host)) != "stopped":
            raise
        job.say(f"start: {ended.verdict.sentence}; trying once more", "stderr")
        time.sleep(SECOND_START_SECONDS)
        return start_process(job, old)


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


def start_process(job: Job, old: int) -> Result:
    """`qm start`, then QEMU's own word that it runs, in a process other than `old`."""
    job.enter("start")
    if (now := read_pid(job.host)) and now != old and has_process(observe(job.host)):
        job.say(f"start: it was started already, as process {now}")
        return verify_running(job, 10)
    ran = job.run(["qm", "start", str(job.host.vmid)], 150)
    job.say(ran.stdout)
    job.say(ran.stderr, "stderr")
    if ran.code is None:
        raise failed("deadline", "qm start did not end in time", "start", exit_code=DEADLINE)
    result = verify_running(job, HA_SECONDS) if ran.code == 0 else None
    if result is None:
        last_words = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise failed("verb-failed", f"qm start failed: {last_words}", "start", *ran.stderr.splitlines()[-5:])
    if old and read_pid(job.host) == old:
        raise failed("verb-failed", f"the VM runs, but still in the old process {old}", "cycle")
    return result


def verify_running(job: Job, seconds: float) -> Result:
    """Return done once QEMU itself says running; fail with what it says instead."""
    job.enter("verify")
    until = time.monotonic() + job.left(seconds)
    facts = observe(job.host)
    while conclude(facts) != "running" and time.monotonic() < until:
        time.sleep(0.05)
        facts = observe(job.host)
    state = conclude(facts)
    if state != "running":
        raise failed("verb-failed", f"the VM is {state} and not running", "forensics", sources(facts))
    job.say(f"verify: running ({sources(facts)})")
    return Result(DONE, state)


Verb = Callable[[Job, Facts], Result]
POWER: dict[str, Verb] = {"reset": reset, "stop": stop, "start": start, "cycle": cycle}
