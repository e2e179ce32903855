"""The store of jobs: /run/breakglass/<vmid>/.

`/run` is the authority on requests and results. A job is a directory `jobs/<id>`; making it appear by rename(2) *is*
the claim of the id: the rename is atomic, carries the whole request, and fails when the id is taken. An id that is
attached to another job's capture is a symbolic link to it. Ages are measured by CLOCK_BOOTTIME, so a wrong clock
changes nothing.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from ..grammar import Request
from ..host.paths import Host, boottime, read_json, read_small_file, remove_job_dir, write_atomic
from ..host.process import process_ticks, read_process, read_stat
from ..words import DEADLINES, MUTATING
from .mutex import fill_reserve, free_part, is_short
from .result import Result


@dataclass(frozen=True)
class Record:
    """A job's request as it was claimed.

    `nonce` distinguishes the process that started it from those that attach. `pid` and `ticks` name the job's process,
    so that a reused pid is not mistaken for it.
    """

    id: str
    verb: str
    by: str
    why: str
    started: str
    boottime: float
    nonce: str
    pid: int
    ticks: int
    fresh: int = 0

    def whole_result(self, result: Result, deadline: float) -> dict[str, object]:
        """Return a result as it is stored, with the job's identity and times."""
        return {
            **result.as_json(),
            "job": self.id,
            "verb": self.verb,
            "by": self.by,
            "started": self.started,
            "deadline": deadline,
            "seconds": round(boottime() - self.boottime, 3),
        }


def make_record(request: Request, nonce: str, is_job: bool) -> Record:
    """Return the record of a request that this process claims now: to run its job or to block the id.

    Raises IndexError if a job can't read its start time, because a job without one would look killed while it acts.
    """
    started, pid = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), os.getpid()
    ticks = int(read_stat(pid)[1][19]) if is_job else 0
    who = (request.id, request.verb, request.by, request.why)
    return Record(*who, started, boottime(), nonce, pid, ticks, request.fresh)


class JobStore:
    """The directories of one VM; every method is quick and safe to call from any process."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.jobs = f"{host.run_dir}/jobs"

    def prepare(self) -> None:
        """Make the directories, for root only; raises OSError when /run can't be written."""
        try:
            os.makedirs(self.jobs, mode=0o700, exist_ok=True)
        except OSError:  # no inode is left
            self.make_room(MUTATING[0])
            os.makedirs(self.jobs, mode=0o700, exist_ok=True)
        fill_reserve(self.host.root)

    def path(self, job_id: str, name: str = "") -> str:
        """Return the path of a job's directory, or of a file in it."""
        return f"{self.jobs}/{job_id}/{name}" if name else f"{self.jobs}/{job_id}"

    def claim(self, record: Record) -> bool:
        """Take the id for this process; False when it is taken already."""
        draft = f"{self.jobs}/.{record.pid}.{record.nonce}"
        self.make_room(record.verb)
        try:
            self._write_draft(draft, record)
        except OSError:  # another process has used the room
            remove_job_dir(draft)
            self.make_room(record.verb)
            self._write_draft(draft, record)
        try:
            os.rename(draft, self.path(record.id))
            return True
        except OSError:
            remove_job_dir(draft)
            return False

    def make_room(self, verb: str) -> None:
        """If /run is full, delete aliases and the output of old jobs, which the archive also has.

        Then use the reserve, for a verb that changes power: captures don't get it, because their number is unlimited.
        """
        if is_short(self.host.root):
            for job_id in filter(self.result, self.ids()):
                self.strip(job_id)
            if is_short(self.host.root) and verb in MUTATING:
                free_part(self.host.root)

    def _write_draft(self, draft: str, record: Record) -> None:
        os.mkdir(draft, 0o700)
        with open(f"{draft}/request.json", "w", encoding="utf-8") as file:
            json.dump(vars(record), file)

    def record(self, job_id: str) -> Record | None:
        """Return the request behind an id, following an alias; None for an unknown id."""
        value = read_json(self.path(job_id, "request.json")) or {}
        known = {name: value[name] for name in Record.__dataclass_fields__ if name in value}
        try:
            return Record(**known)  # type: ignore[arg-type]  # written by claim alone, perhaps of another version
        except TypeError:
            return None

    def result(self, job_id: str) -> dict[str, object] | None:
        """Return a job's result; None while it has none."""
        return read_json(self.path(job_id, "result.json"))

    def write_result(self, job_id: str, result: dict[str, object]) -> None:
        """Write a job's result. The first result is kept, and a later one is dropped."""
        draft = self.path(job_id, f"result.{os.getpid()}")
        with open(draft, "w", encoding="utf-8") as file:
            json.dump(result, file)
        try:
            os.link(draft, self.path(job_id, "result.json"))
        except FileExistsError:
            pass
        os.unlink(draft)

    def enter(self, job_id: str, stage: str, deadline: float) -> None:
        """Record the stage that begins, and how many seconds after its start the job ends at the latest."""
        write_atomic(self.path(job_id, "stage"), f"{stage} {deadline:g}")

    def stage(self, job_id: str) -> str:
        """Return the stage that the job is in; empty before the first one."""
        return read_small_file(self.path(job_id, "stage")).partition(" ")[0]

    def deadline(self, job_id: str, verb: str) -> float:
        """Return by how many seconds after its start a job ends; the verb's usual number if it recorded none."""
        try:
            return float(read_small_file(self.path(job_id, "stage")).partition(" ")[2])
        except ValueError:
            return DEADLINES[verb]

    def is_alive(self, record: Record) -> bool:
        """Tell whether the job's own process still runs, or its standby process, or the `qm` that it ran.

        The effect of a `qm` on the VM is not known before the `qm` has ended.
        """
        over = boottime() - record.boottime > self.deadline(record.id, record.verb)
        return bool(self.processes(record) or (not over and read_process(self.path(record.id, "command"))))

    def processes(self, record: Record) -> list[int]:
        """Return the pids of the processes that run for a job, the standby process first."""
        first = record.pid if record.ticks and process_ticks(record.pid) == record.ticks else 0
        return [pid for pid in (read_process(self.path(record.id, "second")), first) if pid]

    @property
    def last(self) -> str:
        """Return the id of the newest mutating job that got past its preconditions, or `none`."""
        return read_small_file(f"{self.host.run_dir}/last") or "none"

    def set_last(self, job_id: str) -> None:
        """Record that this job got past its preconditions."""
        write_atomic(f"{self.host.run_dir}/last", job_id)

    def ids(self) -> list[str]:
        """Return all claimed ids, aliases too, in no order."""
        try:
            return [name for name in os.listdir(self.jobs) if not name.startswith(".")]
        except OSError:
            return []

    def records(self) -> Iterator[Record]:
        """Yield every job's record, newest first; aliases are not jobs."""
        found = [self.record(name) for name in self.ids() if not os.path.islink(self.path(name))]
        yield from sorted((r for r in found if r), key=lambda r: r.boottime, reverse=True)

    def strip(self, job_id: str) -> None:
        """Delete the output of a job and its picture, or an alias of it."""
        for name in ("", "output", "screen.png"):
            with suppress(OSError):  # the path is a directory, unless the job is an alias
                os.unlink(self.path(job_id, name))


def describe_holder(store: JobStore, job_id: str) -> dict[str, object] | None:
    """Return which job holds the VM, its caller, since when and in which stage; None for an unknown id.

    It is also None for a job that has its result, because that job frees the VM in a moment.
    """
    record = store.record(job_id)
    if record is None or store.result(job_id) is not None:
        return None
    return {
        "job": record.id,
        "verb": record.verb,
        "by": record.by,
        "since": record.started,
        "stage": store.stage(record.id),
        "deadline": store.deadline(record.id, record.verb),
    }
