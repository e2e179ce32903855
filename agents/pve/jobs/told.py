"""What `told` and `seen` answer: marks on the captures of alerts, and which of those people were not told of yet."""

import os
from collections.abc import Iterator

from ..grammar import Request
from ..host.paths import Host, boottime, read_small_file, write_atomic
from ..words import DONE, FAILED
from .history import describe_job
from .marks import NOT_TOLD, SEEN, TOLD, add_mark, read_marks
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
    record = store.record(request.id)
    if record is None or not _is_of_alert(record):
        verdict = Verdict("job-unknown", f'this host has no capture "{request.id}" that an alert requested', "history")
        return None, Result(FAILED, stage=request.verb, verdict=verdict)
    mark = SEEN if request.verb == SEEN else NOT_TOLD if request.why == NOT_TOLD else TOLD
    try:
        add_mark(store, record.id, mark, request.by or "by-hand")
        if mark == SEEN:
            write_atomic(_seen_path(store), record.id)
    except OSError:
        verdict = Verdict("agent-failed", "the host could not record the mark, because /run is full")
        return None, Result(FAILED, stage=request.verb, verdict=verdict)
    return None, Result(DONE, stage=request.verb)


def _is_of_alert(record: Record) -> bool:
    return record.verb == "forensics" and record.id.startswith(ALERT_ID) and not record.id.startswith(DRILL_ID)


def _captures(store: JobStore, seconds: float) -> Iterator[tuple[Record, float]]:
    """Yield the captures of alerts that are younger than `seconds`, with their age, newest first."""
    ids = [each for each in store.ids() if each.startswith(ALERT_ID) and not os.path.islink(store.path(each))]
    found = [record for record in map(store.record, ids) if record and _is_of_alert(record)]
    for record in sorted(found, key=lambda record: record.boottime, reverse=True):
        if (age := boottime() - record.boottime) <= seconds:
            yield record, age


def _untold(store: JobStore) -> list[dict[str, object]]:
    """Return the jobs that have ended and of which no message was sent, with the seconds since each has ended."""
    found = []
    for record, age in _captures(store, UNTOLD_SECONDS):
        job = describe_job(store, record)
        if job["outcome"] is not None and job.get("told") != TOLD:
            job["why"] = None  # this text is long, and no message uses it
            found.append({**job, "ended": round(age - float(str(job["seconds"] or 0.0)), 1)})
    return found[:_MOST_UNTOLD]


def _newest(store: JobStore) -> str:
    """Return the id of the newest capture that people may have a message of, so that the next one replaces it."""
    return next((record.id for record, _ in _captures(store, NEWEST_SECONDS)), "")


def newest_seen(store: JobStore) -> list[object]:
    """Return who has seen the capture that was seen last, and when. It reads two small files, as a status asks."""
    record = store.record(read_small_file(_seen_path(store), 64) or "none")
    if record is None or boottime() - record.boottime > NEWEST_SECONDS:
        return []
    seen = read_marks(store.path(record.id)).get("seen")
    return seen if isinstance(seen, list) else []


def _seen_path(store: JobStore) -> str:
    return f"{store.host.run_dir}/seen"
