"""Serving: the requests under way, and one request of `$SSH_ORIGINAL_COMMAND`."""

import json
import os
import re
import secrets
import select
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..forensics.capture import attach_to_capture
from ..grammar import Malformed, Request, escape, parse_line
from ..host.bounded import reap_children
from ..host.paths import Key, boottime, log
from ..host.process import process_start
from ..jobs.result import Result, Verdict
from ..jobs.store import JobStore
from ..reading.readers import Readers
from ..reading.reads import Message, output, result_message
from ..reading.task import ReadTask
from ..run_job import spawn_job
from ..words import AGENT_REFUSED, FAILED, LATE_SECONDS, MUTATING, READ_ONLY, REFUSED, VERBS
from .follow import FollowTask

FOLLOW_EVERY = 0.02

Send = Callable[[str, Message], None]


class Agent:
    """The requests under way; each answer goes to `send(tag, message)`."""

    def __init__(self, key: Key, bundle: str, send: Send) -> None:
        self._key = key
        self._readers = Readers(key, bundle)
        self._send = send
        self.tasks: dict[ReadTask | FollowTask, str] = {}

    def submit(self, tag: str, line: str, since: float) -> None:
        """Check one line, then refuse the request or begin its task.

        The line may have waited to be read since `since`, in seconds since the boot.
        """
        try:
            request = name_vm(self._key, parse_line(line))
            refusal = check_request(self._key, request) or refuse_late(self._key, request, since)
        except Malformed as error:
            log(self._key.root, f"refused ({error}): {escape(line)}")
            refusal = refuse_line(line)
        if refusal is not None:
            for message in refusal:
                self._send(tag, message)
        else:
            self._begin(tag, request)

    def _begin(self, tag: str, request: Request) -> None:
        try:
            self.tasks[self._task(request)] = tag
        except OSError as error:  # without memory there is no new process, but the other requests continue
            verdict = Verdict("agent-failed", f"{request.verb} can't begin: {error.strerror}; nothing was done")
            self._send(tag, result_message(Result(FAILED, stage="begin", verdict=verdict)))

    def _task(self, request: Request) -> ReadTask | FollowTask:
        host = self._key.host(request.vm or 0, request.no_last_words)
        if not VERBS[request.verb].is_job:
            return ReadTask(host, request, self._readers)
        nonce = secrets.token_hex(8)
        job = complete_request(self._key, request, nonce)
        store = JobStore(host)
        store.prepare()
        if store.record(job.id) is None:
            attached = attach_to_capture(host, job, is_named=bool(request.id))
            if attached is None:
                spawn_job(host, job, nonce)
            job = attached or job
        return FollowTask(host, job, nonce)

    def poll(self, ready: set[int]) -> None:
        """Send the new output of every task; forget the tasks that are done."""
        for task, tag in list(self.tasks.items()):
            try:
                for message in task.poll(task.fd in ready):
                    self._send(tag, message)
            except Exception as error:  # a damaged job must not end the other requests
                task.done = True
                verdict = Verdict("agent-failed", f"the host agent failed: {type(error).__name__}: {error}", "status")
                self._send(tag, result_message(Result(FAILED, verdict=verdict)))
            if task.done:
                del self.tasks[task]
        reap_children()

    def timeout(self, most: float) -> float:
        """Return the seconds until a task must be polled although no descriptor is ready, `most` at most."""
        if any(isinstance(task, FollowTask) for task in self.tasks):
            return FOLLOW_EVERY
        now = time.monotonic()
        return max(0.0, min([now + most, *(task.until for task in self.tasks)]) - now)

    def close(self) -> None:
        """End the reader that is idle."""
        self._readers.close()

    def descriptors(self) -> list[int]:
        """Return the descriptors to wait for."""
        return [task.fd for task in self.tasks if task.fd >= 0]


def complete_request(key: Key, request: Request, nonce: str) -> Request:
    """Return the request with an id and a caller; a read-only key reuses a capture that is up to a minute old."""
    by = request.by or key.name or ("read-only" if key.read_only else "by-hand")
    fresh = max(60, request.fresh) if key.read_only else request.fresh
    return replace(request, id=request.id or f"{request.verb}-{nonce}", by=by, fresh=fresh)


def name_vm(key: Key, request: Request) -> Request:
    """Return the request with the VM's number, which a line may omit if the key serves only one VM.

    A `check` without a number is about the host.
    """
    return replace(request, vm=request.vm or (key.vms.only if request.verb != "check" else None))


def check_request(key: Key, request: Request) -> Iterator[Message] | None:
    """Return the refusal that this key gets for this request, or None."""
    if (uid := os.geteuid()) and not key.root and request.verb not in ("check", "ping"):
        sentence = f"the host agent has uid {uid} and needs root, so nothing was done; run breakglass-pve check there"
        return refuse(FAILED, "agent-failed", sentence)
    if request.vm is not None and request.vm not in key.vms:
        return refuse(REFUSED, "wrong-vm", f"this key serves VM {key.vms}, not {request.vm}; nothing was changed")
    if request.vm is None and request.verb not in ("check", "ping", "session", "states"):
        sentence = f"this key serves several VMs ({key.vms}): name one, like {request.verb} vm=102; nothing was changed"
        return refuse(REFUSED, "wrong-vm", sentence)
    if key.read_only and request.verb in MUTATING:
        sentence = "this key can't change power; an operator has to approve it"
        return refuse(READ_ONLY, "read-only-key", sentence, line=f"approval-required: {request.verb}")
    if key.read_only and request.has_caller_fields:
        verbs = ", ".join(name for name, verb in VERBS.items() if verb.needs_signature and not verb.mutating)
        sentence = f"a read-only key can't use id, by, anyway, proves, note, detach, {verbs}; nothing was done"
        return refuse(AGENT_REFUSED, "agent-refused", sentence)
    if request.verb == "session":  # a session inside a session, or for a VM of another key
        return refuse(AGENT_REFUSED, "agent-refused", "no session here")
    return None


def refuse_late(key: Key, request: Request, since: float) -> Iterator[Message] | None:
    """Return the refusal of a verb that changes power and may have waited too long, or None.

    Its sender has given up, and a person may have fixed the VM since. For a job that exists already, the request only
    follows it.
    """
    waited = boottime() - since
    if request.verb not in MUTATING or waited <= LATE_SECONDS or JobStore(key.host(request.vm or 0)).record(request.id):
        return None
    log(key.root, f"refused (too late, after {waited:.0f} s): {request.verb} vm={request.vm} id={request.id}")
    sentence = (
        f"nothing was done: this {request.verb} may have waited {waited:.0f} s until the host agent could read it"
    )
    return refuse(REFUSED, "too-late", f"{sentence}; look at the status, then send it again", "status")


def refuse(exit_code: int, code: str, sentence: str, advice: str = "", line: str = "") -> Iterator[Message]:
    """Yield a refusal: a line of output, which is the sentence unless a line is given, then the result."""
    yield output(line or sentence, "stdout" if line else "stderr")
    yield result_message(Result(exit_code, stage="begin", verdict=Verdict(code, sentence, advice)))


def refuse_line(line: str) -> Iterator[Message]:
    """Yield the refusal of a line that is not of the grammar."""
    return refuse(AGENT_REFUSED, "agent-refused", f'not a request: "{escape(line, 60)}"; one of {", ".join(VERBS)}')


# --- one request -------------------------------------------------------------------------------------------------


def serve_one(key: Key, bundle: str, line: str) -> int:
    """Answer one request as plain text with a trailer; return the exit code."""
    codes: list[int] = []
    stages: list[Message] = []

    def send(tag: str, message: Message) -> None:
        if message["type"] == "output":
            stream = sys.stdout if message["stream"] == "stdout" else sys.stderr
            print(protect_trailer(str(message["text"])), end="", file=stream, flush=True)
        elif message["type"] == "stage":
            print(format_stage(message, first=not stages), flush=True)
            stages.append(message)
        else:
            trailer = {name: value for name, value in message.items() if name != "type"}
            print(f"#breakglass {json.dumps(trailer)}", flush=True)
            codes.append(int(str(message["exit_code"])))

    agent = Agent(key, bundle, send)
    agent.submit("", line, process_start())
    while agent.tasks:
        ready = select.select(agent.descriptors(), [], [], agent.timeout(LATE_SECONDS))[0]
        agent.poll(set(ready))
    agent.close()
    return codes[0]


def format_stage(message: Message, first: bool) -> str:
    """Return the line for a stage; the first one names the job's deadline."""
    return f"stage: {message['stage']}" + (f", at most {message['deadline']:g} s in all" if first else "")


def protect_trailer(text: str) -> str:
    """Return output text in which no line looks like the trailer."""
    return re.sub(r"(?m)^#breakglass ", " #breakglass ", text)
