"""Serving: one request from `$SSH_ORIGINAL_COMMAND`, or a resident session that takes one a line.

The resident process is single-threaded, never execs and never waits for anything but its descriptors. Code and data
are in memory, so it answers while the host's disks hang.
"""

import json
import os
import re
import secrets
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..grammar import LINE_CHARS, Malformed, Request, escape, parse_line
from ..host.bounded import reap_children
from ..host.paths import Key, log
from ..host.process import lock_memory
from ..jobs.result import Result, Verdict
from ..jobs.store import JobStore
from ..run_job import attach_to_capture, spawn_job
from ..words import AGENT_REFUSED, DEADLINES, FAILED, MUTATING, READ_ONLY, REFUSED, VERBS
from .readers import Readers
from .reads import Message, output, result_message
from .requests import FollowTask, ReadTask

FOLLOW_EVERY = 0.02
MOST_TASKS = 64  # under way before another read begins; what changes power begins at once
MOST_WAITING = 1024  # reads
URGENT = (*MUTATING, "ping")
MOST_UNSENT = 32 * 1024 * 1024
_TAGGED = re.compile(r"([0-9]{1,9}) (.*)", re.ASCII)

Send = Callable[[str, Message], None]


class Agent:
    """The requests under way; each answer goes to `send(tag, message)`."""

    def __init__(self, key: Key, bundle: str, send: Send, resident: bool = False) -> None:
        self._key = key
        self._readers = Readers(key, bundle, resident)
        self._send = send
        self.tasks: dict[ReadTask | FollowTask, str] = {}

    def submit(self, tag: str, line: str) -> None:
        """Check one line, then refuse it or begin its task."""
        try:
            request = name_vm(self._key, parse_line(line))
            refusal = check_request(self._key, request)
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
        except OSError as error:  # no memory, no process: the other requests go on
            verdict = Verdict("agent-failed", f"the host can't begin {request.verb}: {error}; nothing was done")
            self._send(tag, result_message(Result(FAILED, stage="begin", verdict=verdict)))

    def _task(self, request: Request) -> ReadTask | FollowTask:
        host = self._key.host(request.vm or 0)
        if request.verb not in (*MUTATING, "forensics"):
            return ReadTask(host, request, self._readers)
        nonce = secrets.token_hex(8)
        job = complete_request(self._key, request, nonce)
        store = JobStore(host)
        store.prepare()
        if store.record(job.id) is None and not attach_to_capture(host, job):
            spawn_job(host, job, nonce)
        return FollowTask(host, job, nonce)

    def poll(self, ready: set[int]) -> None:
        """Send what every task has; forget the tasks that are done."""
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

    def timeout(self) -> float | None:
        """Return the seconds until a task must be polled although no descriptor is ready; None for no limit."""
        if any(isinstance(task, FollowTask) for task in self.tasks):
            return FOLLOW_EVERY
        ends = [task.until for task in self.tasks]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def close(self) -> None:
        """End the reader that is idle."""
        self._readers.close()

    def descriptors(self) -> list[int]:
        """Return the descriptors to wait for."""
        return [task.fd for task in self.tasks if task.fd >= 0]


def complete_request(key: Key, request: Request, nonce: str) -> Request:
    """Return the request with an id and a caller; a read-only key reuses a capture that is a minute old."""
    by = request.by or key.name or ("read-only" if key.read_only else "by-hand")
    fresh = max(60, request.fresh) if key.read_only else request.fresh
    return replace(request, id=request.id or f"{request.verb}-{nonce}", by=by, fresh=fresh)


def name_vm(key: Key, request: Request) -> Request:
    """Return the request with the VM's number, also where the line leaves out the only VM of the key."""
    return replace(request, vm=request.vm or key.vms.only)


def check_request(key: Key, request: Request) -> Iterator[Message] | None:
    """Return the refusal that this key gets for this request, or None."""
    if request.vm is not None and request.vm not in key.vms:
        sentence = f"this key serves VM {key.vms}, not {request.vm}; nothing was changed"
        return refusal_messages(REFUSED, Verdict("wrong-vm", sentence), sentence)
    if request.vm is None and request.verb not in ("ping", "session"):
        sentence = f"this key serves VM {key.vms}: say which one, like {request.verb} vm=102; nothing was changed"
        return refusal_messages(REFUSED, Verdict("wrong-vm", sentence), sentence)
    if key.read_only and request.verb in MUTATING:
        sentence = "this key can't change power; an operator has to approve it"
        return refusal_messages(READ_ONLY, Verdict("read-only-key", sentence), f"approval-required: {request.verb}")
    if key.read_only and request.has_caller_fields:
        sentence = "a read-only key can't use id, by, anyway, note or detach"
        return refusal_messages(AGENT_REFUSED, Verdict("agent-refused", sentence), sentence)
    if request.verb == "session":  # one that main() did not open: a read-only key's, or one inside a session
        sentence = "no session here"
        return refusal_messages(AGENT_REFUSED, Verdict("agent-refused", sentence), sentence)
    return None


def refusal_messages(exit_code: int, verdict: Verdict, line: str) -> Iterator[Message]:
    """Yield a refusal: one line of output, then the result."""
    yield output(line, "stdout" if exit_code == READ_ONLY else "stderr")
    yield result_message(Result(exit_code, stage="begin", verdict=verdict))


def refuse_line(line: str) -> Iterator[Message]:
    """Yield the refusal of a line that is not of the grammar."""
    sentence = f'not a request: "{escape(line, 60)}"; one of {", ".join(VERBS)}'
    return refusal_messages(AGENT_REFUSED, Verdict("agent-refused", sentence), sentence)


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
    agent.submit("", line)
    while agent.tasks:
        ready = select.select(agent.descriptors(), [], [], agent.timeout())[0]
        agent.poll(set(ready))
    agent.close()
    return codes[0]


def format_stage(message: Message, first: bool) -> str:
    """Return the line for a stage; the first one names the job's deadline."""
    return f"stage: {message['stage']}" + (f", at most {message['deadline']:g} s in all" if first else "")


def protect_trailer(text: str) -> str:
    """Return output text in which no line looks like the trailer."""
    return re.sub(r"(?m)^#breakglass ", " #breakglass ", text)


# --- the resident session ----------------------------------------------------------------------------------------


class Session:
    """stdin and stdout of one SSH channel: tagged lines in, tagged JSON lines out."""

    def __init__(self, key: Key, bundle: str) -> None:
        self._unsent = bytearray()
        self._unread = b""
        self._urgent: deque[tuple[str, str]] = deque()
        self._reads: deque[tuple[str, str]] = deque()
        self._open = True
        self._agent = Agent(key, bundle, self._send, resident=True)
        os.set_blocking(0, False)
        os.set_blocking(1, False)

    def run(self) -> None:
        """Serve until stdin ends; the jobs that were started go on."""
        lock_memory()
        while self._open:
            writing = [1] if self._unsent else []
            timeout = 0.0 if self._can_read else self._agent.timeout()
            ready, writable, _ = select.select([0, *self._agent.descriptors()], writing, [], timeout)
            if 0 in ready:
                self._read_input()
            self._begin_lines()
            self._agent.poll(set(ready))
            if writable or self._unsent:
                self._flush()

    def _read_input(self) -> None:
        chunk = os.read(0, 65536)
        self._open = bool(chunk)
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        if len(self._unread) > LINE_CHARS:
            self._open = False
        for line in lines:
            self._queue(line.decode("utf-8", "replace"))

    def _queue(self, line: str) -> None:
        match = _TAGGED.fullmatch(line)
        tag, command = match.groups() if match else ("", line)
        if command.partition(" ")[0] in URGENT:
            self._urgent.append((tag, command))
        elif len(self._reads) < MOST_WAITING:
            self._reads.append((tag, command))
        else:
            sentence = f"{MOST_WAITING} requests wait on this host already; nothing was done"
            for message in refusal_messages(FAILED, Verdict("agent-failed", sentence, "status"), sentence):
                self._send(tag, message)

    @property
    def _can_read(self) -> bool:
        return bool(self._reads) and len(self._agent.tasks) < MOST_TASKS

    def _begin_lines(self) -> None:
        """Begin what changes power and what tells whether the host answers; then reads, as far as there is room."""
        while self._urgent:
            self._agent.submit(*self._urgent.popleft())
        while self._can_read:
            self._agent.submit(*self._reads.popleft())

    def _send(self, tag: str, message: Message) -> None:
        self._unsent += json.dumps({"tag": tag, **message}).encode() + b"\n"
        if len(self._unsent) > MOST_UNSENT:
            self._open = False  # the client does not read; the next session finds the jobs by their ids

    def _flush(self) -> None:
        try:
            del self._unsent[: os.write(1, self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._open = False


def opens_session(key: Key, line: str) -> bool:
    """Tell whether a line opens a resident session for this key; `vm=` may name one of its VMs."""
    try:
        request = parse_line(line)
    except Malformed:
        return False
    return request.verb == "session" and not key.read_only and (request.vm is None or request.vm in key.vms)


assert set(DEADLINES) == set(VERBS) - {"session"}
