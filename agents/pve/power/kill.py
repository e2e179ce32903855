"""Ending a QEMU without `qm`: QMP quit, SIGTERM, SIGKILL, and the proof that no process is left.

Only a process that /proc shows to be this VM's QEMU is ever signalled, through a pidfd opened before it was verified.
"""

import os
import select
import signal
import time

from ..budget import KILL_SECONDS, QUIT_SECONDS, TERM_SECONDS
from ..forensics.leftovers import describe_leftovers, name_processes
from ..host.process import open_verified
from ..host.qmp import Qmp, QmpError, QmpSilent
from ..host.vmstate import (
    Facts,
    describe_sources,
    has_process,
    is_vm_process,
    leftover_pids,
    observe,
    read_pid,
)
from ..jobs.job import Job
from ..jobs.result import Ended
from ..words import DEADLINE
from .begin import failure

# --- is it gone? -------------------------------------------------------------------------------------------------


def is_gone(job: Job, facts: Facts) -> bool:
    """Tell whether the process that had to end has ended, together with everything in its scope."""
    pid = read_pid(job.host) or facts.pid
    if pid != facts.pid and pid is not None and is_vm_process(job.host, pid):
        return True  # the process that had to end is gone, so HA or a person has started a new one
    if leftover_pids(job.host):
        return False
    return pid is None or is_vm_process(job.host, pid) is False


def is_qemu_alive(job: Job, facts: Facts) -> bool:
    """Tell whether the process itself exists, because `qm stop` does not look again after its SIGKILL and says done."""
    return facts.pid is not None and is_vm_process(job.host, facts.pid) is not False


def await_gone(job: Job, facts: Facts, seconds: float) -> None:
    """Return when the process is gone, or after `seconds`."""
    until = time.monotonic() + job.seconds_left(seconds)
    while not is_gone(job, facts) and time.monotonic() < until:
        time.sleep(0.1)


def describe_survival(job: Job, facts: Facts) -> Ended:
    """Return the failure that names what remains: a QEMU that nothing can kill, or another process in its scope."""
    now, pids = observe(job.host), leftover_pids(job.host)
    if has_process(now) is False and not is_qemu_alive(job, facts):
        sentence = f"QEMU is gone, but {name_processes(pids)} left in its scope, so a start would fail"
        evidence = (describe_sources(now), *describe_leftovers(pids))
        return failure("leftover", sentence, "", *evidence, exit_code=DEADLINE)
    if facts.pid is not None and is_vm_process(job.host, facts.pid) is None:
        sentence = "the host can't tell whether QEMU has ended, because /proc does not answer; a start could fail"
        return failure("deadline", sentence, "", describe_sources(facts), exit_code=DEADLINE)
    sentence = "QEMU survived SIGKILL: it waits for storage that does not answer; a start would fail"
    later = "when that storage answers again QEMU ends, and the VM stays off until it is started"
    evidence = (describe_sources(facts), f"process {facts.pid} lives", later)
    return failure("deadline", sentence, "", *evidence, exit_code=DEADLINE)


# --- ending it ---------------------------------------------------------------------------------------------------


def quit_qemu(job: Job, facts: Facts) -> None:
    """Ask QEMU to quit by QMP, and wait for its end."""
    pidfd = _open_qemu(job, facts.pid)
    if pidfd is None:
        return
    try:
        with Qmp(job.host.qmp, job.seconds_left(3)) as qmp:
            qmp.command("quit")
        _await_end(job, pidfd, QUIT_SECONDS)
    except (QmpError, QmpSilent):
        os.close(pidfd)


def terminate(job: Job, facts: Facts) -> None:
    """Send SIGTERM, and wait for the process's end."""
    _signal(job, facts, signal.SIGTERM, TERM_SECONDS)


def kill(job: Job, facts: Facts) -> None:
    """Send SIGKILL, and wait for the process's end."""
    _signal(job, facts, signal.SIGKILL, KILL_SECONDS)


def kill_half_started(job: Job, pid: int) -> None:
    """Kill a QEMU of this VM that was half started and has no pid file yet.

    This waits for its end even if the job's deadline is over.
    """
    pidfd = _open_qemu(job, pid)
    if pidfd is not None:
        job.say(f"start: SIGKILL to {pid}, which was half started")
        _send(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], KILL_SECONDS)
        os.close(pidfd)


def _signal(job: Job, facts: Facts, number: signal.Signals, seconds: float) -> None:
    pidfd = _open_qemu(job, facts.pid)
    if pidfd is None:
        return
    job.say(f"stop: {number.name} to {facts.pid}")
    _send(pidfd, number)
    _await_end(job, pidfd, seconds)


def _send(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except OSError:
        pass


def _open_qemu(job: Job, pid: int | None) -> int | None:
    """Return a pidfd of the process, None unless /proc shows it to be this VM's QEMU."""
    return None if pid is None else open_verified(pid, lambda: is_vm_process(job.host, pid))


def _await_end(job: Job, pidfd: int, seconds: float) -> None:
    select.select([pidfd], [], [], job.seconds_left(seconds))
    os.close(pidfd)
