"""Stopping a VM as a ladder: `qm stop`, QMP quit, SIGTERM, SIGKILL, then proof that no process is left.

Only a process that /proc shows to be this VM's QEMU is ever signalled, through a pidfd opened before it was verified.
"""

import os
import select
import signal
import time

from .job import Job
from .preflight import cluster_view
from .qmp import Qmp, QmpError, QmpSilent
from .result import Ended, Verdict
from .vmstate import Facts, has_process, leftovers, observe, read_pid, sources, verified
from .words import DEADLINE, FAILED

HA_SECONDS = 60.0


def failed(code: str, sentence: str, advice: str = "", *evidence: str, exit_code: int = FAILED) -> Ended:
    return Ended(exit_code, Verdict(code, sentence, advice, evidence))


def stop_process(job: Job, facts: Facts) -> None:
    """`qm stop` first; where it can't, QMP quit, SIGTERM, SIGKILL to the verified process; then proof."""
    job.enter("stop")
    host = job.host
    if _gone(job, facts):
        job.say("stop: no process is left already")
        return
    if cluster_view(host) is not None:
        ran = job.run(["qm", "stop", str(host.vmid)], 90)
        job.say(ran.stdout)
        job.say(ran.stderr, "stderr")
        job.say("stop: qm stop " + ("did not end in time" if ran.code is None else f"ended with {ran.code}"))
        if ran.code == 0:
            _wait_gone(job, facts)
    else:
        job.say("stop: /etc/pve does not answer, so qm can't be used; stopping QEMU directly")
    for rung in (_quit, _terminate, _kill):
        if _gone(job, facts):
            break
        rung(job, facts)
    job.enter("verify")
    if not _gone(job, facts):
        raise _not_gone(job)
    job.say("stop: no process is left")


def _not_gone(job: Job) -> Ended:
    """Return what is really left: a QEMU that nothing can kill, or something else in its scope."""
    now, pids = observe(job.host), leftovers(job.host)
    if has_process(now) is False:
        sentence = f"QEMU is gone, but processes {pids} are left in its scope; a start would block"
        return failed("leftover", sentence, "", sources(now), f"{job.host.scope}: {pids}", exit_code=DEADLINE)
    sentence = "QEMU survived SIGKILL: it waits for storage that does not answer; a start would block"
    return failed("deadline", sentence, "", sources(now), exit_code=DEADLINE)


def _wait_gone(job: Job, facts: Facts) -> None:
    """Give a stop that was accepted its time: for a VM under HA `qm stop` only asks, and HA acts later."""
    until = time.monotonic() + job.left(HA_SECONDS)
    while not _gone(job, facts) and time.monotonic() < until:
        time.sleep(0.1)


def _gone(job: Job, facts: Facts) -> bool:
    pid = read_pid(job.host) or facts.pid
    if pid != facts.pid and pid is not None and verified(job.host, pid):
        return True  # somebody, HA perhaps, has started the VM anew: the process that was to go is gone
    if leftovers(job.host):
        return False
    return pid is None or verified(job.host, pid) is False


def _quit(job: Job, facts: Facts) -> None:
    pidfd = _verified_pidfd(job, facts)
    if pidfd is None:
        return
    try:
        with Qmp(job.host.qmp, job.left(3)) as qmp:
            qmp.command("quit")
    except (QmpError, QmpSilent):
        pass
    _wait_end(job, pidfd, 5)


def _terminate(job: Job, facts: Facts) -> None:
    _signal(job, facts, signal.SIGTERM, 10)


def _kill(job: Job, facts: Facts) -> None:
    _signal(job, facts, signal.SIGKILL, 5)


def _signal(job: Job, facts: Facts, number: signal.Signals, seconds: float) -> None:
    pidfd = _verified_pidfd(job, facts)
    if pidfd is None:
        return
    job.say(f"stop: {number.name} to {facts.pid}")
    try:
        signal.pidfd_send_signal(pidfd, number)
    except OSError:
        pass
    _wait_end(job, pidfd, seconds)


def _verified_pidfd(job: Job, facts: Facts) -> int | None:
    """Open the process first and verify it then: what the descriptor names can't be another process later."""
    if facts.pid is None:
        return None
    try:
        pidfd = os.pidfd_open(facts.pid)
    except OSError:
        return None
    if verified(job.host, facts.pid):
        return pidfd
    os.close(pidfd)
    return None


def _wait_end(job: Job, pidfd: int, seconds: float) -> None:
    select.select([pidfd], [], [], job.left(seconds))
    os.close(pidfd)
