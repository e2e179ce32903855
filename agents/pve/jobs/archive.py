"""Copies of jobs on a disk that may hang, written by processes that no request waits for.

A job's request is written when it begins to act, so that a crash of the host leaves a trace. The rest is written after
the job's end. The next results report a failed copy, and the next job's end tries it again. Captures are pruned to a
budget. Verbs that changed power have their own budget, and are kept for at least a day.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from ..host.bounded import ask_or_none
from ..host.cluster import node_name
from ..host.paths import Host, boottime, read_json, remove_job_dir, write_atomic
from ..host.process import log_error, process_ticks, spawn_detached
from ..words import DAY
from .aliases import prune_aliases
from .chain_file import copy_chain
from .mutex import Lock
from .store import JobStore, Record

_ADDED = ("marks", "opinion.json")  # after the job's end
NAMES = ("request.json", "output", "result.json", "manifest.json", "evidence.json", "screen.png", *_ADDED)
KEEP_JOBS = 20  # the newest jobs, whose output stays in /run
KEEP_BY_ITSELF = 3  # the newest captures that a client took by itself, whose output stays in /run
KEEP_IDS = 2 * DAY
KEEP_CAPTURES = 200  # the captures whose ids stay; a request with an older id begins another capture, which is harmless
BY_ITSELF = "by itself"  # the reason in the request of such a capture
KEEP_ARCHIVED = 500  # jobs of each kind, captures and all others
KEEP_BYTES = 256 * 1024 * 1024
FILE_BYTES = 2 * 1024 * 1024  # the limit for one file of a job; a longer file is not copied or shown
SLOW_SECONDS = 2.0


def archive_request(host: Host, store: JobStore, record: Record) -> None:
    """Write the request of a job that begins to act, without waiting; a hung disk blocks only that process."""
    with suppress(OSError):  # if no memory is left for a new process, the verb continues without it
        spawn_detached(host.log, "archive_request", lambda: _write_request(host, store, record))


def _write_request(host: Host, store: JobStore, record: Record) -> None:
    if Lock(host, "begun.lock").take(record.id):
        with _note_progress(host, store):
            _copy(host, store, record, NAMES[:1])
            _sync(f"{host.archive}/{record.id}")


def tidy_up(host: Host, store: JobStore) -> None:
    """Prune /run, then the archive, and copy new jobs there; a failure of one does not stop the other."""
    os.nice(10)
    _log_errors(host, lambda: prune_run(store), "tidy_run")
    _log_errors(host, lambda: prune_aliases(store), "tidy_aliases")
    _log_errors(host, lambda: _tidy_archive(host, store), "tidy_archive")


def prune_run(store: JobStore) -> None:
    """Delete ids older than KEEP_IDS seconds, and the output of all jobs that ran, except the last KEEP_JOBS of them.

    Of captures, the newest KEEP_CAPTURES stay, because a caller with read-only rights must not fill /run. Captures that
    a client took by itself are counted separately, so that they don't displace the others.
    """
    now, ran, captures = boottime(), {True: 0, False: 0}, 0
    for record in store.records():
        result = store.result(record.id)
        if result is None and store.is_alive(record):
            continue
        is_capture = record.verb == "forensics"
        by_itself = is_capture and record.why == BY_ITSELF
        captures += is_capture
        ran[by_itself] += result is None or result.get("outcome") not in ("busy", "refused")  # a damaged result counts
        if now - record.boottime > KEEP_IDS or (is_capture and captures > KEEP_CAPTURES):
            remove_job_dir(store.path(record.id))
        elif ran[by_itself] > (KEEP_BY_ITSELF if by_itself else KEEP_JOBS):
            store.strip(record.id)


def _log_errors(host: Host, step: Callable[[], None], name: str) -> None:
    """Run a step; log its error, so that the next step still runs."""
    try:
        step()
    except Exception as error:  # a damaged file or a defect
        log_error(host.log, name, error)


def _tidy_archive(host: Host, store: JobStore) -> None:
    """Prune the archive, and copy the jobs that are not copied yet; only one process runs, and tries each once."""
    lock, tried = Lock(host, "archive.lock"), set[str]()
    while lock.take("archive"):
        waiting = _not_archived(store)
        tried.update(record.id for record in waiting)
        with _note_progress(host, store):
            prune_archive(host.archive)
            for record in waiting:
                _copy(host, store, record, NAMES)
                with open(store.path(record.id, "archived"), "wb"):
                    pass
            copy_chain(host, node_name())  # last, because a damaged file of the chain must not stop the copying of jobs
        lock.release()
        if all(record.id in tried for record in _not_archived(store)):
            return  # otherwise another job has ended meanwhile, but its process found the lock taken and did nothing


def _not_archived(store: JobStore) -> list[Record]:
    records = [record for record in store.records() if store.result(record.id)]
    return [record for record in records if not os.path.exists(store.path(record.id, "archived"))]


def _copy(host: Host, store: JobStore, record: Record, names: tuple[str, ...]) -> None:
    target = f"{host.archive}/{record.id}"
    os.makedirs(target, mode=0o700, exist_ok=True)
    for name in names:
        try:
            data = read_bounded(store.path(record.id, name))
        except FileNotFoundError:
            continue
        if data is None:
            host.log(f"archive: {name} of job {record.id} has more than {FILE_BYTES} bytes, and is not copied")
            continue
        draft = f"{target}/draft.{os.getpid()}"
        with open(draft, "wb") as file:
            file.write(data)
        os.replace(draft, f"{target}/{name}")


def read_bounded(path: str) -> bytes | None:
    """Return a file of a job; None if it has more than FILE_BYTES. Raise OSError if it can't be read."""
    with open(path, "rb") as file:
        data = file.read(FILE_BYTES + 1)
    return data if len(data) <= FILE_BYTES else None


def _sync(directory: str) -> None:
    """Write the request through to the disk, because the host may crash before the kernel writes it back."""
    for path in (f"{directory}/{NAMES[0]}", directory):
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


# --- a disk that fails or hangs ---------------------------------------------------------------------------------------


@contextmanager
def _note_progress(host: Host, store: JobStore) -> Iterator[None]:
    """Note in /run that the archive is being written; note the reason if that fails."""
    if "error" not in (read_json(_note_path(store)) or {}) and not _seconds_writing(store):
        pid = os.getpid()
        _write_note(store, {"since": boottime(), "pid": pid, "ticks": process_ticks(pid)})
    try:
        yield
        _write_note(store, {})
    except OSError as error:
        host.log(f"archive: {error.strerror}")
        _write_note(store, {"error": error.strerror})


def _note_path(store: JobStore) -> str:
    return f"{store.host.run_dir}/archive.json"


def _write_note(store: JobStore, note: dict[str, object]) -> None:
    try:
        write_atomic(_note_path(store), json.dumps(note))
    except OSError:  # /run is full as well
        pass


def _seconds_writing(store: JobStore) -> float:
    """Return for how many seconds a process has been writing; 0 if none is writing."""
    note = read_json(_note_path(store)) or {}
    since, pid = note.get("since"), note.get("pid")
    if not isinstance(since, float) or not isinstance(pid, int) or process_ticks(pid) != note.get("ticks"):
        return 0.0
    return boottime() - since


def is_archive_hung(store: JobStore) -> bool:
    """Tell whether the archive is known not to answer. It only reads tmpfs, so it never waits."""
    return _seconds_writing(store) > SLOW_SECONDS


def is_from_before_boot(store: JobStore, job_id: str, seconds: float) -> bool | None:
    """Tell whether an id was used before the host's last boot, which emptied /run; None if the disk does not answer."""
    if boottime() > DAY:
        return False
    if is_archive_hung(store):
        return None
    return ask_or_none(lambda: os.path.exists(f"{store.host.archive}/{job_id}"), seconds)


def describe_archive_trouble(store: JobStore) -> str:
    """Return a sentence if the archive can't be written or does not answer, otherwise "". It only reads tmpfs."""
    if reason := (read_json(_note_path(store)) or {}).get("error"):
        trouble = f"the archive in /var/lib can't be written ({reason})"
    elif is_archive_hung(store):
        trouble = f"the archive in /var/lib has not answered for {_seconds_writing(store):.0f} s"
    else:
        return ""
    return f"{trouble}: jobs are kept in /run alone, until the next boot"


# --- the budget --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Archived:
    path: str
    at: float
    size: int
    capture: bool
    by_itself: bool


def prune_archive(archive: str) -> None:
    """Remove jobs over the budget of their kind, oldest first; keep verbs that change power for a day.

    Captures that a client took by itself are removed before all other captures.
    """
    try:
        with os.scandir(archive) as directories:
            found = [_archived_size(job.path) for job in directories]
    except FileNotFoundError:
        return
    jobs = sorted(found, key=lambda job: (not job.by_itself, job.at), reverse=True)
    for kind in (True, False):
        for job in _over_budget([job for job in jobs if job.capture is kind]):
            if job.capture or time.time() - job.at > DAY:
                remove_job_dir(job.path)


def _over_budget(jobs: list[_Archived]) -> Iterator[_Archived]:
    used = 0
    for number, job in enumerate(jobs):
        used += job.size
        if number >= KEEP_ARCHIVED or used > KEEP_BYTES:
            yield job


def _archived_size(path: str) -> _Archived:
    with os.scandir(path) as files:
        size = sum(os.path.getsize(file.path) for file in files if not file.name.startswith("draft."))
    request = read_json(f"{path}/request.json") or {}
    is_capture = request.get("verb") == "forensics"
    by_itself = is_capture and request.get("why") == BY_ITSELF
    return _Archived(path, os.stat(path).st_mtime, size, is_capture, by_itself)
