"""What `told`, `seen` and `opinion` answer: marks on alerts' captures, and the captures that wait for a message."""

import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from datetime import datetime

from ..grammar import Request
from ..host.bounded import NoAnswerError
from ..host.paths import Host, boottime, read_small_file, write_atomic
from ..host.process import spawn_detached
from ..words import AGENT_REFUSED, DAY, DONE, FAILED
from .archive import tidy_up
from .history import ask_archive, describe_job, read_archived
from .marks import NOT_TOLD, SEEN, TOLD, add_mark, read_marks
from .opinion import claim_opinion, keep_opinion
from .result import Result, Verdict
from .store import JobStore, Record

ALERT_ID = "alert-"  # prefix of the ids of captures that alerts began; no caller can choose such an id
DRILL_ID = "alert-drill-"  # prefix of the id of a drill's capture, about which no message is sent
UNTOLD_SECONDS = 3600.0  # after that, a message about a capture comes too late
NEWEST_SECONDS = 12 * 3600.0
_MOST_UNTOLD = 50


def answer_mark(host: Host, request: Request) -> tuple[str | None, Result]:
    """Add a mark to the job that is named. A `told` without one answers with the captures that wait for a message."""
    store = JobStore(host)
    if not request.id:
        return None, Result(DONE, stage="told", extra={"untold": _untold(store), "newest": _newest(store)})
    mark = SEEN if request.verb == SEEN else NOT_TOLD if request.why == NOT_TOLD else TOLD
    try:
        record = store.record(request.id) if request.verb == "opinion" else None
        if record is not None and _is_alert(record.id):
            return None, Result(DONE, stage=request.verb, extra=_answer_opinion(store, record, request.why))
        is_known = request.verb != "opinion" and _add_mark(store, request, mark)
    except (OSError, NoAnswerError):
        verdict = Verdict("agent-failed", "the host could not record the mark, because a disk is full or hangs")
        return None, Result(FAILED, stage=request.verb, verdict=verdict)
    except ValueError:
        verdict = Verdict("agent-refused", "the note has no opinion, so nothing was kept")
        return None, Result(AGENT_REFUSED, stage=request.verb, verdict=verdict)
    if not is_known:
        verdict = Verdict("job-unknown", f'this host has no capture "{request.id}" that an alert requested', "history")
        return None, Result(FAILED, stage=request.verb, verdict=verdict)
    return None, Result(DONE, stage=request.verb)


def _answer_opinion(store: JobStore, record: Record, note: str) -> dict[str, object]:
    """Keep an opinion. Without one, count it, unless the capture has not ended, or is so old that no one reads it."""
    if note:
        keep_opinion(store, record.id, note)
        return {}
    if store.result(record.id) is None or boottime() - record.boottime > UNTOLD_SECONDS:
        return {"granted": False}
    return claim_opinion(store, record.id, [str(each["id"]) for each, _ in _captures(store, DAY)])


def _add_mark(store: JobStore, request: Request, mark: str) -> bool:
    """Mark an alert's capture in /run or, after a boot, in the archive; return False if there is no such capture."""
    record, by, archive = store.record(request.id), request.by or "by-hand", store.host.archive
    if record is None:
        return ask_archive(store.host, lambda: _mark_archived(f"{archive}/{request.id}", mark, by))
    if not _is_of_alert(vars(record)):
        return False
    add_mark(store.path(record.id), mark, by)
    if mark == SEEN:
        write_atomic(_seen_path(store), record.id)
    else:  # so that the archive has the mark if the host boots before the next job
        spawn_detached(store.host.log, "tidy_up", lambda: tidy_up(store.host, store))
    return True


def _mark_archived(directory: str, mark: str, by: str) -> bool:
    job = read_archived(directory)
    if job is None or not _is_of_alert(job):
        return False
    add_mark(directory, mark, by)
    return True


def _is_of_alert(request: Mapping[str, object]) -> bool:
    return request["verb"] == "forensics" and _is_alert(str(request["id"]))


def _is_alert(job_id: str) -> bool:
    return job_id.startswith(ALERT_ID) and not job_id.startswith(DRILL_ID)


def _captures(store: JobStore, seconds: float) -> Iterator[tuple[dict[str, object], float]]:
    """Yield the captures of alerts that are younger than `seconds`, with their age, newest first.

    After a boot, which emptied /run, the older of them are in the archive.
    """
    names = store.ids()
    records = map(store.record, (each for each in names if _is_alert(each) and not os.path.islink(store.path(each))))
    found = [record for record in records if record and _is_of_alert(vars(record))]
    for record in sorted(found, key=lambda record: record.boottime, reverse=True):
        if (age := boottime() - record.boottime) <= seconds:
            yield describe_job(store, record), age
    if boottime() < seconds:
        with suppress(NoAnswerError):
            yield from ask_archive(store.host, lambda: _list_before_boot(store.host.archive, names, seconds))


def _list_before_boot(archive: str, known: Collection[str], seconds: float) -> list[tuple[dict[str, object], float]]:
    """Return the captures in the archive that are not in /run; only the clock tells how old they are."""
    now = time.time()
    with os.scandir(archive) as directories:
        names = [each.name for each in directories if _is_alert(each.name) and now - each.stat().st_mtime <= seconds]
    jobs = filter(None, (read_archived(f"{archive}/{name}") for name in names if name not in known))
    aged = [(job, now - _started(str(job["started"]))) for job in jobs]
    return sorted((each for each in aged if each[1] <= seconds), key=lambda each: each[1])


def _started(text: str) -> float:
    """Return a time in the record in Unix seconds. A damaged record counts as very old."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _untold(store: JobStore) -> list[dict[str, object]]:
    """Return the jobs that have ended without a message about them, with the seconds since the end of each."""
    found = []
    for job, age in _captures(store, UNTOLD_SECONDS):
        if job["outcome"] is not None and job.get("told") != TOLD:
            job["why"] = None  # this text is long, and no message uses it
            found.append({**job, "ended": round(age - float(str(job["seconds"] or 0.0)), 1)})
    return found[:_MOST_UNTOLD]


def _newest(store: JobStore) -> str:
    """Return the id of the newest capture that may have a message, so that the next message replaces that one."""
    return next((str(job["id"]) for job, _ in _captures(store, NEWEST_SECONDS)), "")


def newest_seen(store: JobStore) -> list[object]:
    """Return who has seen the capture that was seen last, and when. Reads two small files only, for a status."""
    record = store.record(read_small_file(_seen_path(store), 64) or "none")
    if record is None or boottime() - record.boottime > NEWEST_SECONDS:
        return []
    seen = read_marks(store.path(record.id)).get("seen")
    return seen if isinstance(seen, list) else []


def _seen_path(store: JobStore) -> str:
    return f"{store.host.run_dir}/seen"
