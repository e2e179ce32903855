"""The second opinion on an alert's capture: whether one may be asked for, what it said, and what it cost.

No handler remembers anything, so the VM's host counts the opinions. One is counted before a model is asked, so a
handler that is killed meanwhile never pays for it twice.
"""

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress

from ..host.paths import boottime, read_json, write_atomic
from .mutex import Lock
from .store import JobStore

OPINION_SECONDS = 3600.0  # between two opinions on one VM
OPINION_CHARS = 300


def claim_opinion(store: JobStore, job_id: str, captures: Iterable[str]) -> dict[str, object]:
    """Count an opinion on a capture if a handler may ask for one. Answer what those on `captures` cost in dollars.

    Raises OSError where /run can't be written.
    """
    lock, now = Lock(store.host, "opinion.lock"), boottime()
    if not lock.take(job_id):  # another handler asks now
        return {"granted": False}
    try:
        counted = [found for each in captures if (found := read_json(_path(store.path(each))))]
        is_early = any(now - _number(found, "asked") < OPINION_SECONDS for found in counted)
        if is_early or os.path.exists(_path(store.path(job_id))):
            return {"granted": False}
        write_atomic(_path(store.path(job_id)), json.dumps({"asked": now}))
    finally:
        lock.release()
    return {"granted": True, "spent": sum(_number(found, "usd") for found in counted)}


def keep_opinion(store: JobStore, job_id: str, note: str) -> None:
    """Keep the opinion that a note has; raise ValueError if it has none, and OSError if /run can't be written."""
    directory, at = store.path(job_id), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        found = json.loads(note)
        kept = {"text": str(found["text"])[:OPINION_CHARS], "usd": _number(found, "usd"), "at": at}
    except (LookupError, TypeError, ArithmeticError, RecursionError):
        raise ValueError("the note has no opinion") from None
    write_atomic(_path(directory), json.dumps((read_json(_path(directory)) or {}) | kept))
    with suppress(FileNotFoundError):
        os.unlink(f"{directory}/archived")  # so that the job is copied again after the next job


def read_opinion(directory: str) -> dict[str, object]:
    """Return the `opinion` of a job; nothing for one that has none."""
    found = read_json(_path(directory)) or {}
    return {"opinion": {"text": str(found["text"]), "at": str(found.get("at"))}} if found.get("text") else {}


def _path(directory: str) -> str:
    return f"{directory}/opinion.json"


def _number(found: dict[str, object], name: str) -> float:
    value = found.get(name)
    return float(value) if isinstance(value, int | float) else 0.0
