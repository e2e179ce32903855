"""Writes the chain: a line when a job begins to act, and one with its outcome. Its failure stops no job.

The job holds the VM's lock, so there is only one writer. The file is in /run, so it waits for no disk, except that it
asks the archive once after a boot, for half a second.
"""

import os
from contextlib import suppress
from dataclasses import replace

from ..host.bounded import ask_or_none
from ..host.cluster import node_name
from .archive import describe_archive_trouble, is_archive_hung
from .chain_file import (
    NO_HASH,
    RUN_BYTES,
    LinkFields,
    append_links,
    boot_id,
    chain_paths,
    link_hash,
    make_link,
    open_chain,
    read_end,
    trim_chain,
)
from .job import Job
from .result import Result

CHAIN_SECONDS = 0.5
TORN_CHARS = 200


def chain_open(job: Job) -> None:
    """Ask the archive where the chain stands, if /run's file is empty.

    The job's own archiving must not have begun, because if two processes look up the same name on a hung disk, the
    second can't be killed.
    """
    run, archive = chain_paths(job.host, node_name())
    with suppress(OSError):  # if no process could be started, a new chain begins
        if not os.path.exists(run) or not os.path.getsize(run):
            job.chain_before = _continue_chain(job, archive)


def chain_begin(job: Job) -> None:
    """Write that the job begins to act; a job that is killed leaves this line without an outcome."""
    job.is_chained = True
    trouble = describe_archive_trouble(job.store)
    _write_link(job, "begins", {"archive": trouble} if trouble else {})


def chain_end(job: Job, result: Result) -> Result:
    """Write the outcome of a job that began to act; return the result with the chain's new head."""
    if not job.is_chained:
        return result
    code = result.verdict.code if result.verdict else None
    words = {"outcome": result.outcome, "exit_code": result.exit_code, "state": result.state, "code": code}
    head = _write_link(job, "ends", words)
    warnings = tuple(dict.fromkeys([*result.warnings, *job.warnings]))
    return replace(result, warnings=warnings, extra={**result.extra, "chain": head})


def _write_link(job: Job, event: str, more: LinkFields) -> LinkFields | None:
    record = job.record
    try:
        return _append_link(job, {"job": record.id, "verb": record.verb, "by": record.by, "event": event, **more})
    except Exception as error:  # /run is full or this module has a defect, but the verb continues
        why = error.strerror if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
        job.warnings.append(f'the chain of jobs has no "{event}" line of this job: {why}')
        return None


def _append_link(job: Job, fields: LinkFields) -> LinkFields:
    """Append the line; in an empty file, first append the line that opens it. Return the line's place."""
    host, node = job.host, node_name()
    run, _ = chain_paths(host, node)
    trim_chain(host, node, run, RUN_BYTES)
    fd = open_chain(run)
    try:
        end = read_end(fd)
        number, prev, open_job, lines = end.number, end.hash, end.open_job, []
        opening: LinkFields = {}
        if not end.line:
            number, prev, open_job, opening = job.chain_before or _start_chain("archive-silent")
        if end.torn:
            fields["torn"] = end.torn.decode("utf-8", "replace")[:TORN_CHARS]
        if open_job not in ("", fields["job"]):
            fields["unended"] = open_job
        for each in filter(None, (opening, fields)):
            number += 1
            lines.append(make_link(host, node, number, prev, each))
            prev = link_hash(lines[-1])
        append_links(fd, end, lines)
    finally:
        os.close(fd)
    return {"node": node, "n": number, "head": prev}


def _continue_chain(job: Job, archive: str) -> tuple[int, str, str, LinkFields]:
    """Return number, hash and open job of the archive's last line, and the line that opens /run's file."""
    found = None if is_archive_hung(job.store) else ask_or_none(lambda: _read_archive_end(archive), CHAIN_SECONDS)
    number, prev, open_job = found or (0, NO_HASH, "")
    if number:
        return number, prev, open_job, {"event": "boots", "boot": boot_id()}
    return _start_chain("archive-silent" if found is None else "first" if prev == NO_HASH else "archive-damaged")


def _start_chain(why: str) -> tuple[int, str, str, LinkFields]:
    return 0, NO_HASH, "", {"event": "starts", "boot": boot_id(), "why": why}


def _read_archive_end(path: str) -> tuple[int, str, str]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0, NO_HASH, ""
    end = read_end(fd)
    return end.number, end.hash, end.open_job
