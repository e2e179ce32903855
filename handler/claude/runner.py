"""One turn's parent: starts claude, writes its events to the log, and leaves no process behind.

A process of its own, so that neither a killed handler nor a huge line of claude's matters to the other. It holds one
end of a socket whose other end is the handler's: a byte from here says that the log has grown, a byte from there that
the handler is stopping, and its end that the handler is gone. The job is on standard input.
It is two: the second waits for the first, and ends what that leaves when it is killed.
"""

import errno
import fcntl
import json
import os
import secrets
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from .processes import PR_SET_CHILD_SUBREAPER, PR_SET_DUMPABLE, PR_SET_PDEATHSIG, prctl, reap, send, start

TICK = 0.1
LADDER = ((signal.SIGINT, 3.0), (signal.SIGTERM, 3.0), (signal.SIGKILL, 0.1))
HURRY = ((signal.SIGINT, 1.0), (signal.SIGTERM, 0.5), (signal.SIGKILL, 0.1))  # streams end 5 s after a SIGTERM
SILENCE_SECONDS = 120.0  # claude's own limit for a stream that went silent is 300 s and can't be lowered
LAST_SECONDS = 5.0  # for what is left when claude has ended
STDERR_BYTES = 4096
LOG_BYTES = 64 * 1024 * 1024  # of a turn's events; a conversation has a hundredth of that


class Runner:
    """The turn under way. `job` is what `turns.py` wrote: the launch, the limits, and the descriptors."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.log: int = job["log"]
        self.control = socket.socket(fileno=job["control"])
        self.exit: int | None = None
        self.stopped = ""
        self.stderr = b""
        self.began = self.heard = time.monotonic()
        self._rungs: list[tuple[int, float]] = []
        self._next_rung = 0.0
        self._poll = select.poll()
        self._readers: dict[int, Callable[[], None]] = {}

    def run(self) -> None:
        missing = ""
        try:
            self.pid = self._start()
        except OSError as error:
            missing = str(error)
            if error.errno == errno.EROFS:
                self.stopped = "unsavable"
        self._load()
        if not missing:
            self._give_key()
            self._watch_until_ended()
            self._sweep()
        self._close(missing)

    def _start(self) -> int:
        job = self.job
        prompt = os.memfd_create("prompt")
        os.write(prompt, job["prompt"].encode("utf-8", "surrogatepass"))
        os.lseek(prompt, 0, os.SEEK_SET)
        (out, out_w), (err, err_w) = os.pipe(), os.pipe()
        try:
            pid = start(job["argv"], job["env"], job["cwd"], (job["uid"], job["gid"]), (prompt, out_w, err_w))
        finally:
            for fd in (prompt, out_w, err_w):
                os.close(fd)
        self._add(out, lambda: self._read(out, self._take))
        self._add(err, lambda: self._read(err, self._take_stderr))
        self._add(self.control.fileno(), self._told)
        return pid

    def _load(self) -> None:
        """Import what is not needed to start claude while it starts."""
        from ..verbs import PROPOSAL_ID
        from .brief import approval
        from .events import Framer, Translator

        self.framer = Framer()
        self.translator = Translator(self.job["vm"], approval, lambda: f"{PROPOSAL_ID}{secrets.token_hex(12)}", first=2)

    def _give_key(self) -> None:
        """Start claude's own ssh-agent, which ends with the turn; claude needs it at its first command, not before."""
        job = self.job
        if not job["agent_key"]:
            return
        from .ssh_agent import hold

        try:
            self.agent = hold(job["agent_key"], job["agent_socket"], job["uid"], job["gid"])
        except Exception as error:
            self.stderr = str(error).encode()
            self.stop("keyless")

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
            self.exit = reap().get(self.pid)
            self._judge(time.monotonic())

    def _turn(self, seconds: float) -> bool:
        """Read what there is; tell whether there was something."""
        ready = self._poll.poll(seconds * 1000)
        for fd, _ in ready:
            self._readers[fd]()
        return bool(ready)

    def _judge(self, now: float) -> None:
        """Decide whether the turn has to end, and climb."""
        job = self.job
        if not self.stopped:
            if os.path.exists(job["cancel"]):
                self.stop("cancelled")
            elif now - self.began > job["turn_seconds"]:
                self.stop("turn-timeout")
            elif os.fstat(self.log).st_size > LOG_BYTES:
                self.stop("flood")
            elif now - self.heard > job["silence_seconds"] and not self.translator.in_tool:
                self.stop("silent")
        if self._rungs and now >= self._next_rung:
            number, seconds = self._rungs[0]
            if len(self._rungs) > 1:
                self._rungs.pop(0)
            self._next_rung = now + seconds
            send(os.getpid(), number, self.pid if number == signal.SIGINT else None)

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

    def _told(self) -> None:
        try:
            word = self.control.recv(16)
        except OSError:
            word = b""
        if not word:
            self._remove(self.control.fileno())
        self.stop("shutting-down", HURRY if word else LADDER)

    def _read(self, fd: int, take: Callable[[bytes], None]) -> None:
        chunk = os.read(fd, 256 * 1024)
        if chunk:
            take(chunk)
        else:
            self._remove(fd)
            os.close(fd)

    def _take(self, chunk: bytes) -> None:
        self.heard = time.monotonic()
        if self.stopped == "flood":
            return
        self._write([event for line in self.framer.feed(chunk) for event in self.translator.feed(line)])

    def _take_stderr(self, chunk: bytes) -> None:
        self.stderr = (self.stderr + chunk)[-STDERR_BYTES:]

    def _write(self, events: list[dict[str, object]]) -> None:
        if not events:
            return
        from .eventlog import append

        try:
            append(self.log, events)
        except OSError:
            self.stop("disk")
            return
        try:
            self.control.send(b".")
        except OSError:  # nobody listens, or is behind: it reads the file anyway
            pass

    def _close(self, missing: str) -> None:
        from .failures import End

        seconds = {"silent": self.job["silence_seconds"], "turn-timeout": self.job["turn_seconds"]}
        stderr = self.stderr.decode("utf-8", "replace")
        fcntl.flock(self.job["lock"], fcntl.LOCK_UN)  # before `done` is read: the session is free by then
        end = End(self.exit, stderr, self.stopped, missing, seconds.get(self.stopped, 0))
        self._write(self.translator.close(end))


def main() -> None:
    """Run the job on standard input, and stand by while it runs."""
    job = json.load(sys.stdin)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    for fd in (job["log"], job["lock"], job["control"]):
        os.set_inheritable(fd, False)
    prctl(PR_SET_DUMPABLE, 0)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    ours = os.getpid()
    pid = os.fork()
    if pid:
        _stand_by(pid)
        return
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # a fork does not pass it on
    runner = Runner(job)
    signal.signal(signal.SIGTERM, lambda *_: runner.stop("shutting-down", HURRY))
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == ours:
        runner.run()


def _stand_by(pid: int) -> None:
    """Outlive the runner. One that was killed leaves its processes to us; and the log, the session and the handler's
    socket are ours too, so that all three are let go of only when these have ended."""
    os.waitpid(pid, 0)
    until = time.monotonic() + LAST_SECONDS
    while send(os.getpid(), signal.SIGKILL) and time.monotonic() < until:
        time.sleep(0.01)
        reap()
