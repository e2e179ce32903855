"""The task of a serving process while it follows a job.

It never blocks the process that serves. It is polled, and it ends by its own deadline. The same is true of a reading
verb's task (reading/task.py).
"""

import json
import os
import time
from collections.abc import Iterator
from functools import partial

from ..budget import QUESTION_SECONDS, RESULT_SECONDS
from ..grammar import Request
from ..host.bounded import NoAnswerError, Question
from ..host.cluster import cluster_view
from ..host.paths import Host, boottime
from ..host.process import close_standard_streams, process_ticks
from ..host.pve_tasks import is_qm_at_work
from ..host.vmstate import observe, vm_state
from ..jobs.result import Result, Verdict
from ..jobs.store import JobStore, Record, make_record
from ..reading.reads import Message, output, result_message
from ..words import CLAIM_SECONDS, DAY, DEADLINE, DEADLINES, DONE, ELSEWHERE, FAILED, ID_REUSED, STRANDED

ALIVE_EVERY = 0.2
WORKER_EVERY = 1.0  # between two looks at what a killed job has left
HUNG_EVERY = 10.0  # the pause after a look that hung, because each look may leave a child behind
BY_QM = ("start", "stop", "cycle")  # verbs whose `qm` may outlive them


class FollowTask:
    """A job seen from outside: its new output, then its result; any process may have started the job."""

    fd = -1

    def __init__(self, host: Host, request: Request, nonce: str) -> None:
        self.done = False
        self._host = host
        self._store = JobStore(host)
        self._request = request
        self._nonce = nonce
        self._record: Record | None = None
        self._offset = 0
        self._leftovers: Question[str] | None = None  # set while a child looks at what a killed job has left behind
        self._begun = time.monotonic()
        self._next_look = self._begun + ALIVE_EVERY
        self.until = self._begun + DEADLINES[request.verb] + RESULT_SECONDS

    def poll(self, ready: bool = False) -> Iterator[Message]:
        """Yield what has come since; sets `done` after the result."""
        yield from self._news()
        if self.done and self._leftovers is not None:
            self._leftovers.close()

    def _news(self) -> Iterator[Message]:
        if self._record is None:
            self._record = self._store.record(self._request.id)
        record = self._record
        if record is None:
            if time.monotonic() > self._begun + CLAIM_SECONDS:
                yield from self._give_up()
        elif record.verb != self._request.verb or boottime() - record.boottime > DAY:
            yield self._end(Result(ID_REUSED, last=self._store.last, verdict=_reused_verdict(record)))
        elif self._request.detach:
            when = {"started": record.started, "deadline": self._store.deadline(record.id, record.verb)}
            yield self._end(Result(DONE, last=self._store.last, stage="accepted", extra=when))
        else:
            yield from self._progress(record)

    def _give_up(self) -> Iterator[Message]:
        """Yield that the job did not start, and claim its id, so that a late job can't act after this answer.

        Late evidence does no harm: its id stays free, and the next request with it takes a capture.
        """
        verdict = Verdict("agent-failed", "the job did not start; nothing was changed", "status")
        result = Result(FAILED, verdict=verdict)
        if self._request.verb == "forensics" or self._claim_for_nothing(result):
            yield self._end(result)

    def _claim_for_nothing(self, result: Result) -> bool:
        """Claim the id with this result; return False where the job has begun after all."""
        record = make_record(self._request, self._nonce, is_job=False)
        try:
            if not self._store.claim(record):
                return False
            self._store.write_result(record.id, record.whole_result(result, DEADLINES[record.verb]))
        except OSError:
            pass
        return True

    def _progress(self, record: Record) -> Iterator[Message]:
        result = self._store.result(record.id)  # before the output, so that no output of the job is missed
        yield from self._output(record)
        if result is not None:
            self.done = True
            yield {"type": "result", **result, **self._attachment()}
        elif time.monotonic() > self._deadline(record):
            verdict = Verdict("deadline", "the job has not ended by its deadline", "status")
            yield self._end(Result(DEADLINE, stage=self._store.stage(record.id), verdict=verdict))
        elif self._leftovers is not None:
            if self._leftovers.is_over():
                yield from self._hear_leftovers(record, self._leftovers)
        elif time.monotonic() > self._next_look:
            self._next_look = time.monotonic() + ALIVE_EVERY
            is_over = not self._store.is_alive(record) and self._store.result(record.id) is None
            if is_over and process_ticks(os.getpid()):  # without a free descriptor, every process looks ended
                look = partial(_look_at_leftovers, self._host, record.verb)
                self._leftovers = Question(look, QUESTION_SECONDS)

    def _hear_leftovers(self, record: Record, look: Question[str]) -> Iterator[Message]:
        """Yield the result of a killed job, or look again later while a process of it may change the VM."""
        self._leftovers, pause = None, WORKER_EVERY
        try:
            state = look.answer()
        except NoAnswerError:  # it is not proven that the job's `qm` has ended; the deadline limits the wait
            state, pause = ("" if record.verb in BY_QM else "unknown"), HUNG_EVERY
        if state:
            yield self._killed_result(record, state)
        else:
            self._next_look = time.monotonic() + pause

    def _deadline(self, record: Record) -> float:
        """Return the time, on the monotonic clock, by which the job must have ended."""
        if time.monotonic() > self.until:
            deadline = self._store.deadline(record.id, record.verb) + RESULT_SECONDS
            self.until = time.monotonic() + record.boottime + deadline - boottime()
        return self.until

    def _output(self, record: Record) -> Iterator[Message]:
        try:
            with open(self._store.path(record.id, "output"), "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except OSError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                message = json.loads(line)
            except ValueError:  # a full /run has cut the line off
                continue
            if "stage" in message:
                yield {"type": "stage", "started": record.started, **message}
            else:
                yield output(message["text"], message["stream"])

    def _killed_result(self, record: Record, state: str) -> Message:
        """Return the result that a killed job could not write, and store it for later requests."""
        stage = self._store.stage(record.id)
        off = record.verb == "cycle" and state == "stopped"
        sentence = f"the job's process was killed in stage {stage or 'begin'}; the VM is {state} now"
        advice = "start" if off or state in ("prelaunch", "paused") else "status"  # a killed reset may not reach `cont`
        verdict = Verdict("stranded" if off else "job-killed", sentence, advice)
        result = Result(STRANDED if off else FAILED, state, self._store.last, stage, verdict)
        whole = record.whole_result(result, self._store.deadline(record.id, record.verb))
        try:
            self._store.write_result(record.id, whole)
        except OSError:  # /run is full, and the next request finds the same state
            pass
        self.done = True
        return {"type": "result", **whole, **self._attachment()}

    def _attachment(self) -> Message:
        record = self._record
        return {} if record is None else {"job": record.id, "attached": record.nonce != self._nonce}

    def _end(self, result: Result) -> Message:
        self.done = True
        return {**result_message(result), "job": self._request.id, **self._attachment()}


def _look_at_leftovers(host: Host, verb: str) -> str:
    """Return the VM's state; empty while a `qm` of a killed job still starts or stops it. It may block."""
    close_standard_streams()  # a child that hangs must not keep the SSH channel open
    state = "" if verb in BY_QM and is_qm_at_work(host) else vm_state(observe(host))
    return ELSEWHERE if state == "stopped" and cluster_view(host).node else state


def _reused_verdict(record: Record) -> Verdict:
    sentence = f"this id already belongs to a {record.verb} of {record.started}; use a new id"
    return Verdict("id-taken", sentence, "status")
