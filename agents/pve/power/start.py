"""Starting a VM, and the proof that it runs: QEMU's own word, in a new process. Under HA `qm start` only asks."""

import time

from ..host.cluster import cluster_view
from ..host.guest_agent import guest_agent_state
from ..host.ha import ha_by_hand, ha_line
from ..host.pve_tasks import flock_holders
from ..host.times import CLEANUP_SECONDS, HA_START_SECONDS, QM_START_SECONDS, SECOND_START_SECONDS, START_VERIFY_SECONDS
from ..host.vmstate import (
    describe_leftovers,
    describe_sources,
    has_process,
    leftover_pids,
    name_processes,
    observe,
    read_pid,
    vm_state,
)
from ..jobs.job import Job
from ..jobs.result import Ended, Result
from ..words import DEADLINE, DONE
from .locked import await_holders
from .stop import MOST_SECONDS, as_ended, end_qemu, failed

AGENT_PING_SECONDS = 1.0
CAUSE_CHARS = 130  # of what qm said, in the sentence; the lines have all of it


def start_again(job: Job, old: int) -> Result:
    """Start what a cycle has stopped; a first failure may be a lock that somebody else held, so try a second time."""
    try:
        return start_process(job, old)
    except Exception as error:
        ended = as_ended(job, error)
        if (
            ended.exit_code == DEADLINE
            or ended.verdict.code in ("moved", "ha-holds")
            or vm_state(observe(job.host)) != "stopped"
        ):
            raise ended from None
        job.say(f"start: {ended.verdict.sentence}; trying once more", "stderr")
        time.sleep(SECOND_START_SECONDS)
        return start_process(job, old)


def start_process(job: Job, old: int) -> Result:
    """`qm start`, then QEMU's own word that it runs, in a process other than `old`. Whoever starts it already, starts
    it for us."""
    job.enter("start")
    budget = max(CLEANUP_SECONDS, job.left(MOST_SECONDS) - job.start_seconds)
    await_holders(job, ("stop", "shutdown", "cleanup", "start"), budget, lambda: _runs_anew(job, old))
    if _runs_anew(job, old):
        job.say(f"start: it was started already, as process {read_pid(job.host)}")
        return verify_running(job, START_VERIFY_SECONDS)
    seconds = job.left(job.start_seconds)
    ran = job.run(["qm", "start", str(job.host.vmid)], seconds, gently=True)
    job.say(ran.stdout)
    job.say(ran.stderr, "stderr")
    if ran.code is not None and ran.code < 0:  # killed by somebody: its worker goes on
        await_holders(job, ("start",), job.start_seconds, lambda: _runs_anew(job, old))
        for holder in flock_holders(job.host):
            if holder.kind == "start" and not _runs_anew(job, old):
                job.end_command(holder.pid)
    if (ran.code is None or ran.code < 0) and not _runs_anew(job, old):
        raise _given_up(job, seconds)
    if ran.code is not None and ran.code > 0 and "already running" not in ran.stderr:
        lines = [*ran.stdout.splitlines()[-5:], *ran.stderr.splitlines()[-5:]]
        held = [f"held by {holder}" for holder in flock_holders(job.host)]
        advice = "" if held else "start"
        raise failed("verb-failed", f"qm start failed: {_cause(ran.stderr)}", advice, *lines, *held)
    asked_ha = "Requesting HA start" in ran.stdout
    seconds = HA_START_SECONDS + job.start_seconds - QM_START_SECONDS if asked_ha else START_VERIFY_SECONDS
    result = verify_running(job, seconds, asked_ha)
    if old and read_pid(job.host) == old:
        raise failed("verb-failed", f"the VM runs, but still in the old process {old}", "cycle")
    return result


def _runs_anew(job: Job, old: int) -> bool:
    pid = read_pid(job.host)
    return pid is not None and pid != old and has_process(observe(job.host)) is True


def _cause(stderr: str) -> str:
    """Return the end of `qm`'s last line: before it may stand the whole command line of QEMU."""
    last = (stderr.strip().splitlines() or ["it said nothing"])[-1]
    return last.rpartition("failed: ")[2][-CAUSE_CHARS:]


def _given_up(job: Job, seconds: float) -> Ended:
    """End what a start that was given up has left, so that it can't happen after we said that it failed; where nothing
    ends it, say so."""
    for pid in leftover_pids(job.host):
        end_qemu(job, pid)
    sentence = f"qm start did not end in {seconds:.0f} s"
    if left := leftover_pids(job.host):
        sentence = f"{sentence}, and {name_processes(left)} left: the VM may still start when the storage answers"
        return failed("leftover", sentence, "", *describe_leftovers(left), exit_code=DEADLINE)
    if job.unended:
        sentence = f"{sentence}, and its worker can't be ended: the VM may still start when the storage answers"
        return failed("deadline", sentence, "", *job.unended, exit_code=DEADLINE)
    return failed("deadline", f"{sentence}; it was ended, and nothing of it is left", "start", exit_code=DEADLINE)


def verify_running(job: Job, seconds: float, asked_ha: bool = False) -> Result:
    """Return done once QEMU itself says running; fail with what it says instead. Where HA was asked, look as well
    whether it has moved the VM to another node."""
    job.enter("verify")
    until = time.monotonic() + job.left(seconds)
    facts = observe(job.host)
    while vm_state(facts) != "running" and time.monotonic() < until:
        if asked_ha:
            _notice_a_move(job)
        time.sleep(0.05)
        facts = observe(job.host)
    state = vm_state(facts)
    if state != "running":
        raise _not_running(job, state, describe_sources(facts), asked_ha)
    job.say(f"verify: running ({describe_sources(facts)})")
    return Result(DONE, state, extra=_agents_word(job))


def _not_running(job: Job, state: str, source: str, asked_ha: bool) -> Ended:
    if not asked_ha:
        return failed("verb-failed", f"the VM is {state} and not running", "forensics", source)
    view = cluster_view(job.host)
    requested, seen = (view.ha, view.ha_seen) if view.answers else ("started", "")
    later = "HA took the request and may still start it"
    lines = (source, later, ha_line(requested, seen), *ha_by_hand(job.host.vmid, requested, seen))
    sentence = f"HA was asked to start the VM, which is still {state}: look at ha-manager status"
    return failed("ha-holds", sentence, "", *lines)


def _notice_a_move(job: Job) -> None:
    time.sleep(0.5)  # a look at /etc/pve is a process; the manager works in rounds of 10 s
    view = cluster_view(job.host, 1.0)
    if view.node:
        sentence = f"HA has moved VM {job.host.vmid} to node {view.node} and starts it there: look there"
        raise failed("moved", sentence, "", f"/etc/pve/.vmlist names {view.node}")


def _agents_word(job: Job) -> dict[str, object]:
    """Report whether the guest agent answers, where the VM has one. A guest that boots does not yet: nothing waits."""
    word = guest_agent_state(job.host, AGENT_PING_SECONDS)
    if word:
        job.say("verify: the guest agent " + ("answers" if word == "answers" else "does not answer yet"))
    return {"agent": word} if word else {}
