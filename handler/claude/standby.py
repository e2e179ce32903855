"""The first process of a turn: it takes what claude needs, waits for the runner's worker, and saves what claude leaves.

Standard library only, for the runner. What needs root is done here, before and after claude, and never while claude
runs. So even if the worker is killed, the transcript is saved and the user id is freed. This process has no
threads, because it forks.
"""

import errno
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from .eventlog import append_events, build_ending
from .homes import copy_out, transcript_place
from .processes import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    has_processes,
    prctl,
    reap_children,
    run_as,
    send_signal,
)
from .runner_job import RunnerJob
from .uids import (
    REMOVAL_SECONDS,
    NoFreeUid,
    claim_uid,
    hand_over,
    make_cgroup,
    remove_cgroup,
    remove_handed,
    remove_left_over,
)

LAST_SECONDS = 5.0  # to end claude's descendants once it has ended, and then for the last write
SAVE_SECONDS = 3.0  # for the transcript
_SAVED, _LOST = b"s", b"l"
_HINTS = {  # by whether the turn could not start because no user id is free
    True: "ask again in a moment, or make the range of chat.uids larger",
    False: "check sessions.dir, and the log",
}

Save = Callable[[], bool]


def run_beside(job: RunnerJob, work: Callable[[RunnerJob, Save], None]) -> None:
    """Do the `work` of a turn in a child, and what needs root before and after it.

    Until all processes of the turn have ended and its transcript is saved, the log, the session's lock and the
    handler's socket stay open here.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if job.own:
        _become(job)
    for fd in job.descriptors:
        os.set_inheritable(fd, False)
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        job = _take_uid(job)
    except (NoFreeUid, OSError) as error:
        is_busy = isinstance(error, NoFreeUid)
        message = str(error) if is_busy else f"the turn could not be started: {error}"
        append_events(job.log, build_ending("busy" if is_busy else "claude-crashed", message, _HINTS[is_busy], 2))
        os.unlink(f"{job.sid}.new", dir_fd=job.transcripts)
        return
    (request_reader, request_writer), (reply_reader, reply_writer) = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(request_reader)
        os.close(reply_writer)
        prctl(PR_SET_CHILD_SUBREAPER, 1)  # a fork does not inherit it
        work(job, lambda: _have_saved(job, request_writer, reply_reader))
        return
    for fd in (request_writer, reply_reader, job.listener, job.api_listener, job.network):
        if fd >= 0:
            os.close(fd)
    _stand_by(job, pid, request_reader, reply_writer)


def _become(job: RunnerJob) -> None:
    """Become the handler's own user, which may not be able to read the files of this program, for good."""
    import encodings.idna  # noqa: F401  # this and what follows are loaded later by the children of another runner

    from . import model_forwarder  # noqa: F401

    if job.commands:
        from . import commands  # noqa: F401
    if job.api is not None and job.api.base_url.startswith("https:"):
        import ssl  # noqa: F401
    uid, gid = job.own
    os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _take_uid(job: RunnerJob) -> RunnerJob:
    """Return the job with a user id, which this process keeps locked, and a cgroup. Raises NoFreeUid, OSError."""
    if not job.uids:
        return job
    first, last = job.uids
    uid, _ = claim_uid(range(first, last + 1), job.sessions)
    hand_over(job.directory, job.owner, uid)
    return job._replace(uid=uid, cgroup=make_cgroup(uid))


def _have_saved(job: RunnerJob, request_writer: int, reply_reader: int) -> bool:
    """Ask the first process to save the transcript, and return whether it has. Save it here if that was killed."""
    try:
        os.write(request_writer, b".")
        if not select.select([reply_reader], [], [], SAVE_SECONDS + LAST_SECONDS)[0]:
            return False
        return (os.read(reply_reader, 1) or _save(job)) == _SAVED
    except BrokenPipeError:
        return _save(job) == _SAVED


def _stand_by(job: RunnerJob, pid: int, request_reader: int, reply_writer: int) -> None:
    """Save the transcript when the worker asks for it or was killed; then remove what claude left."""
    is_asked = bool(os.read(request_reader, 1))
    if is_asked:
        result = _save(job)
        try:
            os.write(reply_writer, result)
        except BrokenPipeError:  # the worker was killed
            pass
    os.waitpid(pid, 0)
    with suppress(OSError):  # the next turn of this id tries it again
        remove_cgroup(job.cgroup)
    until = time.monotonic() + LAST_SECONDS
    while send_signal(os.getpid(), signal.SIGKILL) and time.monotonic() < until:
        time.sleep(0.01)
        reap_children()
    if not is_asked:
        _save(job)
    for fd in (job.lock, job.log, job.control):  # who finds the log free ends it, and may continue the session then
        os.close(fd)
    if job.uid is not None:
        until = time.monotonic() + REMOVAL_SECONDS
        remove_handed(job.sessions, job.uid, until)
        remove_left_over(job.sessions, until)


def _save(job: RunnerJob) -> bytes:
    """Put the transcript that claude has written in the place of the stored one, unless there is none."""
    if job.target < 0:
        return _SAVED
    until = time.monotonic() + SAVE_SECONDS
    while job.uid is not None and has_processes(job.uid) and time.monotonic() < until - SAVE_SECONDS / 2:
        reap_children()
        time.sleep(0.01)
    place = transcript_place(job.cwd, job.sid)
    code = run_as(job.uid, lambda: copy_out(job.home, place, job.target), until)
    new, at = f"{job.sid}.new", job.transcripts
    try:
        if code == 0:
            os.rename(new, job.sid, src_dir_fd=at, dst_dir_fd=at)
        else:
            os.unlink(new, dir_fd=at)
    except OSError:
        return _LOST
    return _SAVED if code in (0, errno.ENOENT) else _LOST
