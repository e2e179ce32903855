"""Functions and commands with a deadline, each run in a forked child that is watched from outside.

A child in uninterruptible sleep can't be killed, so this module never waits for a child to die. `subprocess` can't be
used: its Popen waits for execve, which does not return on a hung file system.
"""

import json
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

from .process import set_oom_score

OUTPUT_BYTES = 1024 * 1024


T = TypeVar("T")


class NoAnswerError(Exception):
    """Raised if the child did not answer in time, or died."""


def fork_child(body: Callable[[int], None]) -> tuple[int, int]:
    """Run `body(fd)` in a forked child; return (pid, reading end). The child never returns."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _run_child(body, reader, writer)
    os.close(writer)
    return pid, reader


def _run_child(body: Callable[[int], None], reader: int, writer: int) -> NoReturn:
    # No code of the parent may run here: no atexit, no finally, no traceback that reads source files.
    try:
        os.close(reader)
        body(writer)
    except BaseException:
        os._exit(1)
    os._exit(0)


def kill_child(pid: int, group: bool = False) -> None:
    """Kill a child unless it was reaped already, because a reaped child's pid may belong to another process by now."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, signal.SIGKILL)
            if group:  # the child is killed first, because it may not have created its group yet
                os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass


def kill_with_commands(pid: int) -> None:
    """Kill a child and the commands that it runs, each with its process group.

    The child is stopped first. A stopped child reaps no command, so no other process can get a command's pid.
    """
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, signal.SIGSTOP)
            with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
                commands = [int(command) for command in file.read().split()]
            for command in commands:
                os.kill(command, signal.SIGKILL)
                os.killpg(command, signal.SIGKILL)
    except OSError:  # the command has ended, or was forked just now and has no group yet
        pass
    kill_child(pid)


def reap_children() -> None:
    """Collect the children that have ended, without waiting for the others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


class Question(Generic[T]):
    """A question that a forked child answers. The caller polls it, so nothing waits for a child that hangs.

    The answer comes as JSON, so a tuple would become a list.
    """

    def __init__(self, question: Callable[[], T], seconds: float) -> None:
        def body(fd: int) -> None:
            with os.fdopen(fd, "wb") as pipe:
                pipe.write(json.dumps(question()).encode())

        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._data = b""
        self._pid, self._fd = fork_child(body)

    def is_over(self, wait: float = 0.0) -> bool:
        """Tell whether the child has ended or its time is over; wait for either, `wait` seconds at most."""
        left = self._until - time.monotonic()
        if not select.select([self._fd], [], [], max(0.0, min(wait, left)))[0]:
            return left <= wait
        chunk = os.read(self._fd, 65536)
        self._data += chunk
        return not chunk

    def close(self) -> None:
        """End the child, without waiting for its end."""
        os.close(self._fd)
        kill_child(self._pid)
        reap_children()

    def answer(self) -> T:
        """Close the question and return its answer; raise NoAnswerError if the answer is not complete."""
        self.close()
        try:
            answer: T = json.loads(self._data)
        except ValueError:
            raise NoAnswerError(f"no answer in {self._seconds:g} s") from None
        return answer


def ask(question: Callable[[], T], seconds: float) -> T:
    """Return the answer of `question()`, asked in a child; raise NoAnswerError after `seconds`."""
    running = Question(question, seconds)
    while not running.is_over(seconds):
        pass
    return running.answer()


def ask_or_none(question: Callable[[], T], seconds: float) -> T | None:
    """Return the answer of `question()`, asked in a child; None after `seconds`."""
    try:
        return ask(question, seconds)
    except NoAnswerError:
        return None


@dataclass(frozen=True)
class CommandResult:
    """The end of a command; `code` is None when it was still running at its deadline."""

    code: int | None
    stdout: str
    stderr: str


def kill_group(pid: int) -> None:
    """Kill a child and its process group."""
    kill_child(pid, group=True)


def run(
    argv: list[str],
    seconds: float,
    on_start: Callable[[int], None] | None = None,
    on_timeout: Callable[[int], None] = kill_group,
) -> CommandResult:
    """Run `argv` with a deadline in seconds, in its own session, and return what it printed.

    `on_start` gets its pid, and so does `on_timeout` at the deadline: the default kills the process group and does not
    wait for its end. A grandchild that keeps the pipes open (a daemon that QEMU left) delays nothing, because the
    function returns when the command itself has ended.
    """
    out_r, out_w = os.pipe()
    err_r, err_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        _exec(argv, out_w, err_w)
    if on_start is not None:
        on_start(pid)
    os.close(out_w)
    os.close(err_w)
    command = _RunningCommand(pid, out_r, err_r, on_timeout)
    try:
        code = command.wait_until(time.monotonic() + seconds)
        return CommandResult(code, command.text(out_r), command.text(err_r))
    finally:
        command.close()


def _exec(argv: list[str], out: int, err: int) -> NoReturn:
    try:
        os.setsid()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        set_oom_score(0)  # the OOM killer spares a job, but must not spare a QEMU that the command starts
        os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.closerange(3, 4096)
        os.execvp(argv[0], argv)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


class _RunningCommand:
    """A command that runs in a child, and what it has printed so far."""

    def __init__(self, pid: int, out: int, err: int, on_timeout: Callable[[int], None]) -> None:
        self.pid = pid
        self._on_timeout = on_timeout
        self.pidfd = os.pidfd_open(pid)
        self.data = {out: bytearray(), err: bytearray()}
        for fd in self.data:
            os.set_blocking(fd, False)

    def wait_until(self, end: float) -> int | None:
        open_fds = set(self.data)
        while True:
            ready = select.select([self.pidfd, *open_fds], [], [], max(0.0, end - time.monotonic()))[0]
            open_fds -= {fd for fd in ready if fd != self.pidfd and not self._drain(fd)}
            if ready and self.pidfd not in ready:
                continue
            if not ready:
                self._on_timeout(self.pid)
            for fd in open_fds:
                self._drain(fd)
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]) if ready else None

    def _drain(self, fd: int) -> bool:
        """Read all that has been printed; return whether more may come."""
        try:
            while chunk := os.read(fd, 65536):
                room = OUTPUT_BYTES - len(self.data[fd])
                self.data[fd] += chunk[:room]
            return False
        except BlockingIOError:
            return True

    def text(self, fd: int) -> str:
        return self.data[fd].decode("utf-8", "replace")

    def close(self) -> None:
        for fd in (*self.data, self.pidfd):
            os.close(fd)
        reap_children()
