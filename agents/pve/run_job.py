"""Runs a job in its own process that outlives the connection: claim, lock, checks, verb, result.

The order is that of the contract: a known id attaches; then the lock, or `busy`; then, under the lock, `if` and `last`.
"""

import time
from dataclasses import replace

from .forensics.capture import capture_lock, find_capture, forensics
from .forensics.cures import name_cure
from .grammar import Request
from .host.bounded import ask_or_none, kill_child
from .host.cluster import cluster_view
from .host.paths import Host, boottime
from .host.process import spawn_detached
from .host.vmstate import PROC_SECONDS, QMP_SECONDS, has_process, observe, vm_state
from .jobs.aliases import add_alias, drop_dangling
from .jobs.archive import archive_request, describe_archive_trouble, is_from_before_boot, tidy_up
from .jobs.chain import chain_end, chain_open
from .jobs.history import ARCHIVE_SECONDS
from .jobs.job import Job
from .jobs.mutex import Lock
from .jobs.proven import with_proven
from .jobs.result import Ended, Result, Verdict
from .jobs.store import JobStore, describe_holder, make_record
from .power.preflight import refuse_absent, refuse_unexpected
from .power.verbs import POWER
from .words import BUSY, CLAIM_SECONDS, FAILED, ID_REUSED

RELEASE_SECONDS = 1.0  # the longest time between a job's result and the release of the VM for the next verb


def spawn_job(host: Host, request: Request, nonce: str) -> None:
    """Start the job of `request` (id and by are set) and return at once; `nonce` tells which process started it."""
    claim_by = boottime() + CLAIM_SECONDS - 1
    spawn_detached(host.log, f"job={request.id}", lambda: _run_job(host, request, nonce, claim_by))


def _run_job(host: Host, request: Request, nonce: str, claim_by: float) -> None:
    if boottime() > claim_by:
        return  # this process is so late that its follower is about to answer that the job did not start
    store = JobStore(host)
    job = Job(host, store, make_record(request, nonce, is_job=True))
    lock = _claim(job)
    if lock is None:
        return  # the id is taken or is attached to a capture, so this process ends silently
    _finish(job, request, lock)
    lock.release()
    if job.standby_pid:
        kill_child(job.standby_pid)
    tidy_up(host, store)


def _claim(job: Job) -> Lock | None:
    if job.record.verb != "forensics":
        return Lock(job.host, "lock") if job.store.claim(job.record) else None
    lock = capture_lock(job.host)
    running = None if lock.take(job.record.id) else lock.holder()
    if running == job.record.id:
        return None  # the same request came a moment earlier
    if capture := running or find_capture(job.host, job.record.fresh, "capture"):
        add_alias(job.store, job.record.id, capture)
        return None
    drop_dangling(job.store, job.record.id)  # the capture to which this id was attached never began
    return lock if job.store.claim(job.record) else None


def _finish(job: Job, request: Request, lock: Lock) -> None:
    try:
        result = forensics(job, request.name) if request.verb == "forensics" else _run_verb(job, request, lock)
    except Ended as ended:
        if ended.exit_code != BUSY:  # fifty busy answers must not fill /run
            job.say(ended.verdict.sentence, "stderr")
        result = Result(ended.exit_code, verdict=name_cure(ended.verdict), holder=ended.holder, anyway=ended.anyway)
    except Exception as error:  # a defect must still give the id a result
        job.say(f"{type(error).__name__}: {error}", "stderr")
        sentence = f"the host agent failed in stage {job.stage or 'begin'}: {type(error).__name__}"
        result = Result(FAILED, verdict=Verdict("agent-failed", sentence, "status"))
    result = with_proven(job.host, request, chain_end(job, _complete(job, result)))
    if request.verb == "forensics":
        lock.release()  # before the result, because a client that has it and asks again wants a new capture
    job.finish(result)
    job.host.log(f"job={job.record.id} verb={job.record.verb} by={job.record.by} outcome={result.outcome}")


def _complete(job: Job, result: Result) -> Result:
    state, warnings = result.state, job.warnings
    if result.exit_code != BUSY:
        if state == "unknown":
            state = ask_or_none(lambda: vm_state(observe(job.host)), QMP_SECONDS + PROC_SECONDS + 1) or state
        warnings = [*warnings, *filter(None, [describe_archive_trouble(job.store)])]
    extra = {**result.extra, "proxmox_name": job.proxmox_name}
    now = replace(result, last=job.store.last, stage=job.stage, screen=job.screen, extra=extra)
    return replace(now, state=state, warnings=tuple(warnings))


def _run_verb(job: Job, request: Request, lock: Lock) -> Result:
    until = time.monotonic() + RELEASE_SECONDS
    while not lock.take(job.record.id):
        holder = lock.holder()
        if time.monotonic() > until or (holder and job.store.result(holder) is None):
            refuse_old_id(job)  # "busy" would say that this id has done nothing
            raise _describe_busy(job, holder)
        time.sleep(0.02)
    job.anyway = request.anyway
    view = cluster_view(job.host)
    if request.verb in ("start", "cycle"):
        job.allow_start(view.config_text)
    job.enter("preflight")
    refuse_old_id(job)
    job.check_name(view.name, request.name)
    facts = observe(job.host)
    if has_process(facts) is False:
        refuse_absent(job)
    refuse_unexpected(job, facts, request.if_state, request.if_last)
    chain_open(job)
    archive_request(job.host, job.store, job.record)
    return POWER[request.verb](job, facts)


def refuse_old_id(job: Job) -> None:
    """Refuse an id that acted before the host's last boot: /run has lost the job, but the archive has it."""
    if is_from_before_boot(job.store, job.record.id, ARCHIVE_SECONDS):
        raise Ended(ID_REUSED, Verdict("id-taken", "this id was used before the last boot; use a new id", "status"))


def _describe_busy(job: Job, holder_id: str | None) -> Ended:
    holder = describe_holder(job.store, holder_id) if holder_id else None
    if holder is None:
        return Ended(BUSY, Verdict("vm-held", "another job had this VM a moment ago, so look again", "status"))
    who = "{by}: {verb} since {since}, stage {stage}".format(**holder)
    return Ended(BUSY, Verdict("vm-held", f"{who}; wait for that job, or send its id to watch it", "status"), holder)
