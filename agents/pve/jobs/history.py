"""The jobs of a VM, and what `history` and `job` answer."""

import base64
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict

from ..host.bounded import NoAnswerError, T, ask
from ..host.cluster import node_name
from ..host.paths import Host, boottime, read_json
from ..words import DONE, FAILED
from .archive import describe_archive_trouble, is_archive_hung, read_bounded
from .marks import read_marks
from .opinion import read_opinion
from .result import Result, Verdict
from .store import JobStore, Record
from .verify import describe_chain, read_chain

# --- The newest jobs: those in /run, then those of the archive, whose disk gets one second to answer ---

NEWEST = 50
ARCHIVE_SECONDS = 1.0


def list_jobs(host: Host) -> list[dict[str, object]]:
    """Return the newest 50 jobs of /run, newest first; `outcome` is None while one runs."""
    store = JobStore(host)
    return [describe_job(store, record) for record in list(store.records())[:NEWEST]]


def list_older_jobs(host: Host, newer: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the archived jobs that fill the list up to 50; raise NoAnswerError when its disk does not answer."""
    if len(newer) >= NEWEST:
        return []
    known = {str(job["id"]) for job in newer}
    return ask_archive(host, lambda: _list_archived(host.archive, known, NEWEST - len(newer)))


def ask_archive(host: Host, question: Callable[[], T]) -> T:
    """Return the answer to a question about the archive; raise NoAnswerError if its disk does not answer."""
    if is_archive_hung(JobStore(host)):
        raise NoAnswerError("no answer")
    return ask(question, ARCHIVE_SECONDS)


def describe_job(store: JobStore, record: Record) -> dict[str, object]:
    """Return a job of /run as `history` lists it."""
    result = store.result(record.id)
    if result is not None:
        return _describe(vars(record), result) | read_marks(store.path(record.id)) | read_opinion(store.path(record.id))
    stage = store.stage(record.id)
    if store.is_alive(record):
        return _describe(vars(record), {"stage": stage, "seconds": round(boottime() - record.boottime, 1)})
    return _describe(vars(record), _cut_off_result(f"the job's process was killed in stage {stage or 'begin'}", stage))


def _cut_off_result(sentence: str, stage: str = "") -> dict[str, object]:
    return {"stage": stage, "outcome": "failed", "verdict": asdict(Verdict("job-killed", sentence, "status"))}


def _describe(request: dict[str, object], result: dict[str, object]) -> dict[str, object]:
    named = {name: request.get(name) for name in ("id", "verb", "by", "why", "started")}
    return named | {name: result.get(name) for name in ("seconds", "outcome", "stage", "verdict")}


def _list_archived(archive: str, known: set[str], most: int) -> list[dict[str, object]]:
    if not os.path.isdir(archive):
        return []
    with os.scandir(archive) as directories:
        dated = sorted(((job.stat().st_mtime, job.path) for job in directories if job.name not in known), reverse=True)
    found = [read_archived(path) for _, path in dated[:most]]
    return sorted(filter(None, found), key=lambda job: str(job["started"]), reverse=True)


def read_archived(directory: str) -> dict[str, object] | None:
    """Return an archived job. A job that has no result and is not in /run was running when the host went down."""
    request = read_json(f"{directory}/request.json")
    result = read_json(f"{directory}/result.json")
    result = result or _cut_off_result("the host went down or was restarted while the job ran")
    return _describe(request, result) | read_marks(directory) | read_opinion(directory) if request else None


def read_job(host: Host, job_id: str) -> dict[str, object] | None:
    """Return one job with its output and picture, from /run or from the archive; None when it is unknown.

    Raises:
        NoAnswerError: the archive's disk did not answer.
    """
    store = JobStore(host)
    record = store.record(job_id)
    if record is not None and (store.result(job_id) is None or os.path.exists(store.path(job_id, "output"))):
        return describe_job(store, record) | _read_contents(store.path(job_id))
    try:
        old = ask_archive(host, lambda: _read_archived_job(f"{host.archive}/{job_id}"))
    except NoAnswerError:
        if record is None:
            raise
        old = None
    if old is not None:
        return old
    return describe_job(store, record) | _read_contents(store.path(job_id)) if record else None


def _read_archived_job(directory: str) -> dict[str, object] | None:
    job = read_archived(directory)
    return job | _read_contents(directory) if job else None


def _read_contents(directory: str) -> dict[str, object]:
    return {
        "output": _read_output(f"{directory}/output"),
        "screen_png": _read_picture(f"{directory}/screen.png"),
        **_read_texts(f"{directory}/evidence.json", "last_words", "screen_text"),
    }


def _read_texts(path: str, *names: str) -> dict[str, list[str]]:
    """Return the guest's lines that a capture or a verb has kept."""
    evidence = (read_json(path) or {}).get("evidence")
    found = [evidence.get(name) if isinstance(evidence, dict) else None for name in names]
    return {
        name: [str(line) for line in lines] if isinstance(lines, list) else []
        for name, lines in zip(names, found, strict=True)
    }


def _read_output(path: str) -> str:
    try:
        lines = (read_bounded(path) or b"").decode("utf-8").splitlines()
        return "".join(str(json.loads(line).get("text", "")) for line in lines)
    except (OSError, ValueError):
        return ""


def _read_picture(path: str) -> str | None:
    try:
        picture = read_bounded(path)
    except OSError:
        return None
    return base64.b64encode(picture).decode() if picture else None


def format_jobs(jobs: Iterable[dict[str, object]]) -> str:
    """Return the jobs as a table of text, for a person at a terminal."""
    rows = [
        f"{job['started']}  {job['verb']:<9}  {job['outcome'] or 'running':<8}  {job['by']}  {job['id']}"
        for job in jobs
    ]
    return "\n".join(rows) or "no jobs"


# --- What `history` and `job` answer: text for a person, and the result ---


def answer_history(host: Host) -> tuple[str, Result]:
    """Return the newest jobs, and what the chain of jobs says."""
    jobs, warnings, is_silent = list_jobs(host), [describe_archive_trouble(JobStore(host))], False
    try:
        jobs += list_older_jobs(host, jobs)
    except NoAnswerError as error:
        is_silent = True
        warnings.append(f"the archive in /var/lib failed ({error}), so only jobs since the last boot are shown")
    chain = read_chain(host, node_name(), is_silent)
    if chain.broken:
        warnings.append(describe_chain(chain))
    extra: dict[str, object] = {"jobs": jobs, "chain": asdict(chain)}
    shown = tuple(filter(None, warnings))
    result = Result(DONE, last=JobStore(host).last, stage="history", warnings=shown, extra=extra)
    return f"{format_jobs(jobs)}\n{describe_chain(chain)}", result


def answer_job(host: Host, job_id: str) -> tuple[str | None, Result]:
    """Return one job with its output; no text if it is unknown."""
    try:
        job, silence = read_job(host, job_id), ""
    except NoAnswerError as error:
        job, silence = None, f", and the archive in /var/lib gave {error}"
    if job is None:
        verdict = Verdict("job-unknown", f'no job "{job_id}" is known on this host{silence}', "history")
        return None, Result(FAILED, last=JobStore(host).last, stage="job", verdict=verdict)
    return str(job["output"]), Result(DONE, last=JobStore(host).last, stage="job", extra={"whole_job": job})
