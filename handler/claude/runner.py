"""Runs one turn: starts claude, writes its events to the log, and leaves no process behind.

The runner is a process of its own, so a huge line of claude's does not harm the handler, and claude ends when the
handler is killed. A socket connects the two. The runner sends a byte when the log has grown. The handler sends `c` to
cancel the turn and `s` when it is stopping; when the socket closes, the handler is gone. The job is on standard input.

It runs as two processes, and this is the second one, the worker: standby.py is the first.

The main thread enforces the limits and touches no file: `logwriter.py` writes the log in a thread. So a
sessions.dir that hangs delays neither a cancellation nor the end of the turn's time.
"""

import errno
import os
import signal
import sys
import time
from collections.abc import Callable

from ..base.framer import Framer
from ..base.verbs import PROPOSAL_ID
from .apart import set_apart
from .events import Translator
from .failures import End
from .homes import copy_in, transcript_place
from .logwriter import LogWriter, log_defects
from .processes import (
    PR_SET_PDEATHSIG,
    list_descendants,
    prctl,
    raise_oom_score,
    reap_children,
    send_signal,
    start_program,
)
from .runner_io import FAST_LADDER, LADDER, Readers, Rungs, SignalLadder, receive, send
from .runner_job import RunnerJob
from .side_processes import start_command_server, start_model_proxy
from .standby import LAST_SECONDS, Save, run_beside
from .uids import kill_cgroup

TICK = 0.1
SILENCE_SECONDS = 120.0  # claude's own limit for a stream that went silent is 300 s and can't be lowered
STDERR_BYTES = 4096
LOG_BYTES = 64 * 1024 * 1024  # of a turn's events; an ordinary turn has a hundredth of that
CANCEL, STOP = b"c", b"s"  # what the handler sends


class Runner:
    """The turn under way."""

    def __init__(self, job: RunnerJob, save: Save) -> None:
        self.job = job
        self.save = save
        self.pid = self.proxy_pid = 0
        self.exit: int | None = None
        self.stopped = ""
        self.missing = ""
        self.unsaved = False
        self.stderr = b""
        self.framer = Framer()
        self.translator = Translator(job.vm, lambda: f"{PROPOSAL_ID}{os.urandom(12).hex()}", 2, job.verbs)
        self.writer = LogWriter(job.log, job.cancel, self._notify)
        self.started_at = self.last_output_at = time.monotonic()
        self._ladder = SignalLadder()
        self._readers = Readers()

    def run(self) -> None:
        """Run the turn to its end."""
        try:
            self._start()
        except OSError as error:
            self.missing = str(error)
        self.writer.start()  # after the forks: a child of a process with threads may not do much
        if not self.missing:
            self._watch_until_ended()
            self._sweep()
            self.unsaved = not self.save()
        self._close()

    def _start(self) -> None:
        """Start claude, then what serves its commands: claude needs that at the first of them, not before."""
        job = self.job
        if job.api is not None:
            self.proxy_pid, variables = start_model_proxy(job.api, job.api_listener)
            job = job._replace(env={**job.env, **variables})
        prompt = os.memfd_create("prompt")
        os.write(prompt, job.prompt.encode("utf-8", "surrogatepass"))
        os.lseek(prompt, 0, os.SEEK_SET)
        (out, out_w), (err, err_w) = os.pipe(), os.pipe()
        try:
            fds = (prompt, out_w, err_w)
            self.pid, status = start_program(
                job.argv, job.env, job.cwd, job.uid, fds, self._copy_transcript_in, lambda: set_apart(job)
            )
        finally:
            for fd in (prompt, out_w, err_w):
                os.close(fd)
        self._readers.add(out, lambda: self._read(out, self._write_events))
        self._readers.add(err, lambda: self._read(err, self._keep_stderr))
        self._readers.add(status, lambda: self._read_status(status))
        self._readers.add(job.control, self._read_control)
        if job.commands:
            start_command_server(job)

    def _copy_transcript_in(self) -> None:
        """Give claude the session's transcript. This runs in claude's process, before its program."""
        if self.job.source >= 0:
            try:
                copy_in(self.job.source, self.job.home, transcript_place(self.job.cwd, self.job.sid))
            except OSError as error:  # as for a directory that can't be written
                raise OSError(errno.EROFS, "read-only", self.job.home) from error

    # --- watching ---

    def _watch_until_ended(self) -> None:
        while self.exit is None:
            self._readers.poll_once(TICK)
            ended = reap_children()
            self.exit = ended.get(self.pid)
            if self.job.walled and self.exit is not None and self.exit > 128:
                self.exit = 128 - self.exit  # what bubblewrap makes of a signal
            if self.proxy_pid in ended and not self.stopped:
                self.stop("proxyless")
            self._enforce_limits(time.monotonic())

    def _enforce_limits(self, now: float) -> None:
        """Stop the turn at a limit, and send the signal that is due."""
        why = "" if self.stopped else self._find_reason_to_stop(now)
        if why:
            self.stop(why)
        self._ladder.climb(now, self._find_claude)

    def _find_claude(self) -> int:
        """Return claude's pid: behind its wall, the first child of process 1 there, which is a child of `self.pid`."""
        below = list_descendants(self.pid) if self.job.walled else []
        return below[1] if len(below) > 1 else self.pid

    def _find_reason_to_stop(self, now: float) -> str:
        if self.writer.is_cancelled:
            return "cancelled"
        if self.writer.has_failed:
            return "disk"
        if now - self.started_at > self.job.turn_seconds:
            return "turn-timeout"
        if self.writer.size > LOG_BYTES:
            return "flood"
        if now - self.last_output_at > self.job.silence_seconds and not self.translator.in_tool:
            return "silent"
        return ""

    def stop(self, why: str, rungs: Rungs = LADDER) -> None:
        """Begin to stop claude, or stop it faster. The error names the first reason."""
        self.stopped = self.stopped or why
        self._ladder.begin(rungs)

    def _sweep(self) -> None:
        """Kill the descendants that claude left and read its last output."""
        kill_cgroup(self.job.cgroup)
        until = time.monotonic() + LAST_SECONDS
        while time.monotonic() < until:
            left = send_signal(os.getpid(), signal.SIGKILL)
            had_output = self._readers.poll_once(0.02 if left else 0)
            reap_children()
            if not left and not had_output:
                break

    # --- reading ---

    def _read_control(self) -> None:
        """Read what the handler sends. A handler that was taken over may change how the socket blocks."""
        try:
            commands = receive(self.job.control, 16)
        except BlockingIOError:
            return
        except OSError:
            commands = b""
        if not commands:
            self._readers.remove(self.job.control)
            self.stop("shutting-down")
        elif STOP in commands:
            self.stop("shutting-down", FAST_LADDER)
        elif not self.stopped:  # a repeated cancellation must not begin the ladder again
            self.stop("cancelled")

    def _read(self, fd: int, on_chunk: Callable[[bytes], None]) -> None:
        chunk = os.read(fd, 256 * 1024)
        if chunk:
            on_chunk(chunk)
        else:
            self._readers.remove(fd)
            os.close(fd)

    def _read_status(self, fd: int) -> None:
        """Read whether claude was started: nothing, or an errno."""
        data = os.read(fd, 16)
        self._readers.remove(fd)
        os.close(fd)
        if not data:
            raise_oom_score(self.pid)
            return
        number = int(data)
        self.missing = str(OSError(number, os.strerror(number), self.job.argv[0]))
        if number == errno.EROFS:
            self.stopped = "unsavable"

    def _write_events(self, chunk: bytes) -> None:
        self.last_output_at = time.monotonic()
        if self.stopped == "flood":
            return
        self.writer.write([event for line in self.framer.feed(chunk) for event in self.translator.feed(line)])

    def _keep_stderr(self, chunk: bytes) -> None:
        self.stderr = (self.stderr + chunk)[-STDERR_BYTES:]

    def _notify(self) -> None:
        """Tell the handler that the log has grown."""
        try:
            send(self.job.control, b".")
        except OSError:  # the handler is gone, or has unread bytes already
            pass

    def _close(self) -> None:
        seconds = {"silent": self.job.silence_seconds, "turn-timeout": self.job.turn_seconds}
        end = End(
            None if self.missing else self.exit,
            self.stderr.decode("utf-8", "replace"),
            self.stopped,
            self.missing,
            seconds.get(self.stopped, 0),
            self.unsaved,
        )
        self.writer.unlock(self.job.lock)  # a client that has read `done` can continue the session
        self.writer.write(self.translator.close(end))
        self.writer.close(LAST_SECONDS)


def main() -> None:
    """Run the job on standard input in a child, and stand by until that child has ended."""
    log_defects()
    parent = os.getpid()

    def work(job: RunnerJob, save: Save) -> None:
        runner = Runner(job, save)
        signal.signal(signal.SIGTERM, lambda *_: runner.stop("shutting-down", FAST_LADDER))
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == parent:
            runner.run()

    run_beside(RunnerJob.from_json(sys.stdin.buffer.read()), work)
