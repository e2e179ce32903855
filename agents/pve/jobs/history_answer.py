"""What `history` and `job` answer: text for a person, and the result."""

from dataclasses import asdict

from ..host.bounded import NoAnswerError
from ..host.cluster import node_name
from ..host.paths import Host
from ..words import DONE, FAILED
from .archive import describe_archive_trouble
from .history import format_jobs, list_jobs, list_older_jobs, read_job
from .result import Result, Verdict
from .store import JobStore
from .verify import describe_chain, read_chain


def answer_history(host: Host) -> tuple[str, Result]:
    """Return the newest jobs, and what the chain of jobs says."""
    jobs, warnings, is_silent = list_jobs(host), [describe_archive_trouble(JobStore(host))], False
    try:
        jobs += list_older_jobs(host, jobs)
    except NoAnswerError as error:
        is_silent = True
        warnings.append(f"the archive in /var/lib gave {error}: only jobs since the last boot are shown")
    chain = read_chain(host, node_name(), is_silent)
    if chain.broken:
        warnings.append(describe_chain(chain))
    extra: dict[str, object] = {"jobs": jobs, "chain": asdict(chain)}
    shown = tuple(filter(None, warnings))
    result = Result(DONE, last=JobStore(host).last, stage="history", warnings=shown, extra=extra)
    return f"{format_jobs(jobs)}\n{describe_chain(chain)}", result


def answer_job(host: Host, job_id: str) -> tuple[str | None, Result]:
    """Return one job with its output; no text where it is unknown."""
    try:
        job, silence = read_job(host, job_id), ""
    except NoAnswerError as error:
        job, silence = None, f", and the archive in /var/lib gave {error}"
    if job is None:
        verdict = Verdict("job-unknown", f'no job "{job_id}" is known on this host{silence}', "history")
        return None, Result(FAILED, stage="job", verdict=verdict)
    return str(job["output"]), Result(DONE, last=JobStore(host).last, stage="job", extra={"whole_job": job})
