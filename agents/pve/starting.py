"""Starting a VM, and the proof that it runs: QEMU's own word, in a new process. Under HA `qm start` only asks."""

import time

from .cluster import cluster_view
from .guest import ping_agent
from .ha import ha_by_hand, ha_line
from .job import Job
from .result import Ended, Result
from .stopping import failed
from .times import HA_START_SECONDS, QM_START_SECONDS, SECOND_START_SECONDS, START_VERIFY_SECONDS
from .vmstate import conclude, has_process, observe, read_pid, sources
from .words import DEADLINE, DONE

AGENT_PING_SECONDS = 1.0


def start_again(job: Job, old: int) -> Result:
    """Start what a cycle has stopped; a first failure may be a lock that somebody else held, so try a second time."""
    try:
        return start_process(job, old)
    except Ended as ended:
        if (
            ended.exit_code == DEADLINE
            or ended.verdict.code in ("moved", "ha-holds")
            or conclude(observe(job.host)) != "stopped"
        ):
            raise
        job.say(f"start: {ended.verdict.sentence}; trying once more", "stderr")
        time.sleep(SECOND_START_SECONDS)
        return start_process(job, old)


def start_process(job: Job, old: int) -> Result:
    """`qm start`, then QEMU's own word that it runs, in a process other than `old`."""
    job.enter("start")
    if (now := read_pid(job.host)) and now != old and has_process(observe(job.host)):
        job.say(f"start: it was started already, as process {now}")
        return verify_running(job, 10)
    ran = job.run(["qm", "start", str(job.host.vmid)], QM_START_SECONDS)
    job.say(ran.stdout)
    job.say(ran.stderr, "stderr")
    if ran.code is None:
        raise failed("deadline", "qm start did not end in time", "start", exit_code=DEADLINE)
    if ran.code != 0 and "already running" not in ran.stderr:
        last_words = (ran.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise failed("verb-failed", f"qm start failed: {last_words}", "start", *ran.stderr.splitlines()[-5:])
    asked_ha = "Requesting HA start" in ran.stdout
    result = verify_running(job, HA_START_SECONDS if asked_ha else START_VERIFY_SECONDS, asked_ha)
    if old and read_pid(job.host) == old:
        raise failed("verb-failed", f"the VM runs, but still in the old process {old}", "cycle")
    return result


def verify_running(job: Job, seconds: float, asked_ha: bool = False) -> Result:
    """Return done once QEMU itself says running; fail with what it says instead. Where HA was asked, look as well
    whether it has moved the VM to another node."""
    job.enter("verify")
    until = time.monotonic() + job.left(seconds)
    facts = observe(job.host)
    while conclude(facts) != "running" and time.monotonic() < until:
        if asked_ha:
            _notice_a_move(job)
        time.sleep(0.05)
        facts = observe(job.host)
    state = conclude(facts)
    if state != "running":
        raise _not_running(job, state, sources(facts), asked_ha)
    job.say(f"verify: running ({sources(facts)})")
    return Result(DONE, state, extra=_agents_word(job))


def _not_running(job: Job, state: str, source: str, asked_ha: bool) -> Ended:
    if not asked_ha:
        return failed("verb-failed", f"the VM is {state} and not running", "forensics", source)
    view = cluster_view(job.host)
    requested, seen = (view.ha, view.ha_seen) if view.answers else ("started", "")
    lines = (source, ha_line(requested, seen), *ha_by_hand(job.host.vmid, requested, seen))
    return failed("ha-holds", f"HA was asked to start the VM and it is {state}", "", *lines)


def _notice_a_move(job: Job) -> None:
    time.sleep(0.5)  # a look at /etc/pve is a process; the manager works in rounds of 10 s
    view = cluster_view(job.host, 1.0)
    if view.node:
        sentence = f"HA has moved VM {job.host.vmid} to node {view.node} and starts it there: look there"
        raise failed("moved", sentence, "", f"/etc/pve/.vmlist names {view.node}")


def _agents_word(job: Job) -> dict[str, object]:
    """Report whether the guest agent answers, where the VM has one. A guest that boots does not yet: nothing waits."""
    word = ping_agent(job.host, AGENT_PING_SECONDS)
    if word:
        job.say("verify: the guest agent " + ("answers" if word == "answers" else "does not answer yet"))
    return {"agent": word} if word else {}
