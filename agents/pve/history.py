"""What happened lately: the jobs in /run, then those of the archive, whose disk gets one second to answer."""

import base64
import json
import os
from collections.abc import Iterable

from .host import Host
from .memory import Memory, Record, boottime, read_json
from .vmstate import in_time

NEWEST = 50
ARCHIVE_SECONDS = 1.0


def entries(host: Host) -> list[dict[str, object]]:
    """Return the newest 50 jobs, newest first; `outcome` is None while one runs."""
    memory = Memory(host)
    found = [entry(memory, record) for record in list(memory.records())[:NEWEST]]
    if len(found) < NEWEST:
        known = {str(job["id"]) for job in found}
        old = in_time(lambda: _archived(host.archive, known, NEWEST - len(found)), ARCHIVE_SECONDS)
        found += old if isinstance(old, list) else []
    return found


def entry(memory: Memory, record: Record) -> dict[str, object]:
    result = memory.result(record.id)
    if result is not None:
        return _entry(vars(record), result)
    stage = memory.stage(record.id)
    if memory.alive(record):
        return _entry(vars(record), {"stage": stage, "seconds": round(boottime() - record.boottime, 1)})
    return _entry(vars(record), {"stage": stage, "outcome": "failed", "verdict": {"code": "job-killed"}})


def _entry(request: dict[str, object], result: dict[str, object]) -> dict[str, object]:
    named = {name: request.get(name) for name in ("id", "verb", "by", "why", "started")}
    return named | {name: result.get(name) for name in ("seconds", "outcome", "stage", "verdict")}


def _archived(archive: str, known: set[str], most: int) -> list[dict[str, object]]:
    names = [name for name in os.listdir(archive) if name not in known] if os.path.isdir(archive) else []
    found = []
    for name in names:
        request = read_json(f"{archive}/{name}/request.json")
        result = read_json(f"{archive}/{name}/result.json")
        if request and result:
            found.append(_entry(request, result))
    return sorted(found, key=lambda job: str(job["started"]), reverse=True)[:most]


def whole_job(host: Host, job_id: str) -> dict[str, object] | None:
    """Return one job with its output and picture, from /run or else from the archive; None when unknown."""
    memory = Memory(host)
    record = memory.record(job_id)
    if record is not None and (memory.result(job_id) is None or os.path.exists(memory.job(job_id, "output"))):
        return entry(memory, record) | _contents(memory.job(job_id))
    old = in_time(lambda: _archived_job(f"{host.archive}/{job_id}"), ARCHIVE_SECONDS)
    if isinstance(old, dict):
        return old
    return entry(memory, record) | _contents(memory.job(job_id)) if record else None


def _archived_job(directory: str) -> dict[str, object] | None:
    request = read_json(f"{directory}/request.json")
    return _entry(request, read_json(f"{directory}/result.json") or {}) | _contents(directory) if request else None


def _contents(directory: str) -> dict[str, object]:
    return {"output": _output(f"{directory}/output"), "screen_png": _picture(f"{directory}/screen.png")}


def _output(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return "".join(str(json.loads(line)["text"]) for line in file)
    except (OSError, ValueError):
        return ""


def _picture(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return base64.b64encode(file.read()).decode()
    except OSError:
        return None


def table(jobs: Iterable[dict[str, object]]) -> str:
    """Return the list for hands on a keyboard."""
    rows = [
        f"{job['started']}  {job['verb']:<9}  {job['outcome'] or 'running':<8}  {job['by']}  {job['id']}"
        for job in jobs
    ]
    return "\n".join(rows) or "no jobs"
