"""A second process beside a cycle: if one process dies between the stop and the start, the VM must not stay off.

The job forks it at the point of no return, and it sleeps until the first process has ended. If the first left a result,
the standby ends silently; if the first was killed, the standby takes the lock, waits for the first one's command and
continues.
"""

import os
import select

from ..budget import LADDER_SECONDS, QM_STOP_SECONDS
from ..host.process import lock_memory, open_verified, read_process
from ..host.vmstate import leftover_pids
from ..jobs.job import Job
from ..jobs.mutex import Lock
from .begin import failure
from .kill import kill_half_started


def stand_by(job: Job) -> None:
    """Fork a second process. Returns in the first at once, and in the second only when the first was killed."""
    try:
        first = os.pidfd_open(os.getpid())
        second = os.fork()
    except OSError as error:  # without memory there is no second process, but one is enough for a rescue
        job.warnings.append(f"the host could not start this job's standby process: {error.strerror}")
        return
    if second == 0:
        job.note_process("second", os.getpid())  # the first process may be killed before it has noted this one
        _take_over(job, first, job.store.last)
        return
    os.close(first)
    job.standby_pid = second
    job.note_process("second", second)


def _take_over(job: Job, first: int, last: str) -> None:
    lock_memory()
    select.select([first], [], [])
    os.close(first)
    stage = job.store.stage(job.record.id)
    if job.store.result(job.record.id) is not None:
        os._exit(0)
    killed = f"the job's process was killed in stage {stage}"
    if not Lock(job.host, "lock").take(job.record.id):
        job.is_chained = False  # without the lock, this process must not write to the chain
        raise failure("job-killed", f"{killed}, and another job holds the VM now", "status")
    if job.store.last != last:  # another job has acted meanwhile, and its work must not be undone
        raise failure("job-killed", f"{killed}, and another job has acted since", "status")
    job.warnings.append(f"{killed}; its standby process took over")
    job.say(f"{stage}: {job.warnings[-1]}", "stderr")
    _await_command(job)


def _await_command(job: Job) -> None:
    """Wait for the `qm` that the first process ran: two of them on one VM would conflict."""
    path = job.store.path(job.record.id, "command")
    pid = read_process(path)
    pidfd = open_verified(pid, lambda: read_process(path) == pid) if pid else None
    if pidfd is None:
        return
    starts = job.store.stage(job.record.id) == "start"
    reserved = 0.0 if starts else LADDER_SECONDS + job.start_seconds
    seconds = job.start_seconds if starts else QM_STOP_SECONDS
    patience = max(1.0, job.seconds_left(seconds + reserved) - reserved)
    if not select.select([pidfd], [], [], patience)[0]:
        job.end_command(pid, gently=starts)
        for half in leftover_pids(job.host) if starts else ():
            kill_half_started(job, half)
    os.close(pidfd)
