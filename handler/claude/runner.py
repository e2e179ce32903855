"""One turn's parent: starts claude, writes its events to the log, and leaves no process behind.

A separate process, so that neither a killed handler nor a huge line of claude's matters to the other. It holds one end
of a socket whose other end is the handler's: a byte from here says that the log has grown. From there, `c` cancels the
turn, `s` says that the handler is stopping, and the socket's end that it is gone. The job is on standard input.

Runs as two processes. If the worker is killed, its parent kills the remaining children.

The worker's main thread enforces the limits and touches no file: `logwriter.py` writes the log in a thread, and a child
starts the ssh-agent. So a sessions.dir that hangs delays neither a cancellation nor the end of the turn's time.
"""

import errno
import os
import secrets
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

from ..verbs import PROPOSAL_ID
from .events import Framer, Translator
from .failures import End
from .logwriter import LogWriter
from .processes import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    prctl,
    raise_oom_score,
    reap,
    send,
    start,
)
from .runner_job import RunnerJob
from .ssh_agent import run_ssh_agent

TICK = 0.1
LADDER = ((signal.SIGINT, 3.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 0.1))
HURRY = ((signal.SIGINT, 1.0), (signal.SIGTERM, 0.5), (signal.SIGKILL, 0.1))  # streams end 5 s after a SIGTERM
SILENCE_SECONDS = 120.0  # claude's own limit for a stream that went silent is 300 s and can't be lowered
LAST_SECONDS = 5.0  # for what is left when claude has ended, and then for the last write
STDERR_BYTES = 4096
LOG_BYTES = 64 * 1024 * 1024  # of a turn's events; a conversation has a hundredth of that
CANCEL, STOP = b"c", b"s"  # what the handler sends


class Runner:
    """The turn under way."""

    def __init__(self, job: RunnerJob) -> None:
        self.job = job
        self.control = socket.socket(fileno=job.control)
        self.control.setblocking(False)
        self.pid = self.agent_pid = 0
        self.exit: int | None = None
        self.stopped = ""
        self.missing = ""
        self.stderr = b""
        self.framer = Framer()
        self.translator = Translator(job.vm, lambda: f"{PROPOSAL_ID}{secrets.token_hex(12)}", first=2)
        self.writer = LogWriter(job.log, job.cancel, self._notify)
        self.began = self.heard = time.monotonic()
        self._rungs: list[tuple[int, float]] = []
        self._next_rung = 0.0
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], None]] = {}

    def run(self) -> None:
        try:
            self._start()
        except OSError as error:
            self.missing = str(error)
        self.writer.start()  # after the forks: a child of a process with threads may not do much
        if not self.missing:
            self._watch_until_ended()
            self._sweep()
        self._close()

    def _start(self) -> None:
        """Start claude, and its ssh-agent: claude needs that at its first command, not before."""
        job = self.job
        prompt = os.memfd_create("prompt")
        os.write(prompt, job.prompt.encode("utf-8", "surrogatepass"))
        os.lseek(prompt, 0, os.SEEK_SET)
        (out, out_w), (err, err_w) = os.pipe(), os.pipe()
        try:
            self.pid, status = start(job.argv, job.env, job.cwd, (job.uid, job.gid), (prompt, out_w, err_w))
        finally:
            for fd in (prompt, out_w, err_w):
                os.close(fd)
        self._add(out, lambda: self._read(out, self._take))
        self._add(err, lambda: self._read(err, self._take_stderr))
        self._add(status, lambda: self._read_status(status))
        self._add(self.control.fileno(), self._obey)
        if job.agent_key:
            self.agent_pid = run_ssh_agent(job.agent_key, job.agent_socket, job.uid, job.gid)

    # --- watching ---

    def _add(self, fd: int, reader: Callable[[], None]) -> None:
        os.set_blocking(fd, False)
        self._readers[fd] = reader
        self._poll.register(fd, select.POLLIN | select.POLLHUP)

    def _remove(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._readers[fd]

    def _watch_until_ended(self) -> None:
        while self.exit is None:
            self._turn(TICK)
            ended = reap()
            self.exit = ended.get(self.pid)
            if ended.get(self.agent_pid) and not self.stopped:
                self.stop("keyless")
            self._judge(time.monotonic())

    def _turn(self, seconds: float) -> bool:
        """Read what there is; tell whether there was something."""
        ready = self._poll.poll(seconds * 1000)
        for fd, _ in ready:
            self._readers[fd]()
        return bool(ready)

    def _judge(self, now: float) -> None:
        """Decide whether the turn has to end, and climb the ladder of signals."""
        why = "" if self.stopped else self._reason_to_stop(now)
        if why:
            self.stop(why)
        if self._rungs and now >= self._next_rung:
            number, seconds = self._rungs[0]
            if len(self._rungs) > 1:
                self._rungs.pop(0)
            self._next_rung = now + seconds
            send(os.getpid(), number, self.pid if number == signal.SIGINT else None)

    def _reason_to_stop(self, now: float) -> str:
        if self.writer.cancelled:
            return "cancelled"
        if self.writer.failed:
            return "disk"
        if now - self.began > self.job.turn_seconds:
            return "turn-timeout"
        if self.writer.size > LOG_BYTES:
            return "flood"
        if now - self.heard > self.job.silence_seconds and not self.translator.in_tool:
            return "silent"
        return ""

    def stop(self, why: str, ladder: tuple[tuple[int, float], ...] = LADDER) -> None:
        """Begin to climb, or climb faster; the first reason is the one that is told."""
        self.stopped = self.stopped or why
        self._rungs = [rung for rung in ladder if not self._rungs or rung[0] != signal.SIGINT]
        self._next_rung = min(self._next_rung, time.monotonic())

    def _sweep(self) -> None:
        """End what claude left behind and take its last words."""
        until = time.monotonic() + LAST_SECONDS
        while time.monotonic() < until:
            left = send(os.getpid(), signal.SIGKILL)
            heard = self._turn(0.02 if left else 0)
            reap()
            if not left and not heard:
                break

    # --- what comes ---

    def _obey(self) -> None:
        """Read what the handler says."""
        try:
            word = self.control.recv(16)
        except OSError:
            word = b""
        if not word:
            self._remove(self.control.fileno())
            self.stop("shutting-down")
        elif STOP in word:
            self.stop("shutting-down", HURRY)
        elif not self.stopped:  # a repeated cancellation must not begin the ladder anew
            self.stop("cancelled")

    def _read(self, fd: int, take: Callable[[bytes], None]) -> None:
        chunk = os.read(fd, 256 * 1024)
        if chunk:
            take(chunk)
        else:
            self._remove(fd)
            os.close(fd)

    def _read_status(self, fd: int) -> None:
        """Read whether claude was started: nothing, or the number of an error."""
        failed = os.read(fd, 16)
        self._remove(fd)
        os.close(fd)
        if not failed:
            raise_oom_score(self.pid)
            return
        number = int(failed)
        self.missing = str(OSError(number, os.strerror(number), self.job.argv[0]))
        if number == errno.EROFS:
            self.stopped = "unsavable"

    def _take(self, chunk: bytes) -> None:
        self.heard = time.monotonic()
        if self.stopped == "flood":
            return
        self.writer.write([event for line in self.framer.feed(chunk) for event in self.translator.feed(line)])

    def _take_stderr(self, chunk: bytes) -> None:
        self.stderr = (self.stderr + chunk)[-STDERR_BYTES:]

    def _notify(self) -> None:
        """Tell the handler that the log has grown."""
        try:
            self.control.send(b".")
        except OSError:  # the handler is gone, or is behind: it reads the file anyway
            pass

    def _close(self) -> None:
        seconds = {"silent": self.job.silence_seconds, "turn-timeout": self.job.turn_seconds}
        end = End(
            None if self.missing else self.exit,
            self.stderr.decode("utf-8", "replace"),
            self.stopped,
            self.missing,
            seconds.get(self.stopped, 0),
        )
        self.writer.unlock(self.job.lock)  # before `done` is read: the session is free by then
        self.writer.write(self.translator.close(end))
        self.writer.close(LAST_SECONDS)


def main() -> None:
    """Run the job on standard input, and stand by while it runs."""
    job = RunnerJob.from_json(sys.stdin.buffer.read())
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for fd in (job.log, job.lock, job.control):
        os.set_inheritable(fd, False)
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    parent = os.getpid()
    pid = os.fork()
    if pid:
        _stand_by(pid)
        return
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # a fork does not pass it on
    runner = Runner(job)
    signal.signal(signal.SIGTERM, lambda *_: runner.stop("shutting-down", HURRY))
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == parent:
        runner.run()


def _stand_by(pid: int) -> None:
    """Outlive the worker and kill what a killed worker leaves. The log, the session's lock and the handler's socket
    are open here too, so that all three are released only when these children have ended."""
    os.waitpid(pid, 0)
    until = time.monotonic() + LAST_SECONDS
    while send(os.getpid(), signal.SIGKILL) and time.monotonic() < until:
        time.sleep(0.01)
        reap()
