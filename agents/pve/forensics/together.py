"""Asking many probes at once: each in a child of its own, with a deadline from its own start.

What starts a Perl interpreter costs up to a second of processor before it says anything, so of those no more run at a
time than there are processors. What hangs is itself a finding, and is left behind: nothing waits for its end.
"""

import json
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict

from ..host.bounded import fork_child, kill_child, reap_children
from ..host.qmp import QmpError, QmpSilent
from .probe import Probe, Reply

_OVERTIME = 0.3  # a command's own deadline comes first, so that its process is ended and its output kept
# With less than that a probe is not begun: it would be late for want of time, and that is no finding.
_LEAST_SECONDS = 0.3
_LEAST_PERL_SECONDS = 3.0

FollowUp = Callable[[Reply], list[Probe]]


def no_follow_up(_: Reply) -> list[Probe]:
    return []


def ask_together(questions: list[Probe], until: float, follow_up: FollowUp = no_follow_up) -> Iterator[Reply]:
    """Ask these and what `follow_up` makes of each reply; yield replies as they come. All of it ends by `until`."""
    return _Together(questions, until, follow_up).replies()


class _Together:
    """The probes of one look: those under way by the descriptor of their child, and those that wait."""

    def __init__(self, questions: list[Probe], until: float, follow_up: FollowUp) -> None:
        self._until = until - _OVERTIME
        self._follow_up = follow_up
        self._waiting = deque(questions)
        self._asked: dict[int, _RunningProbe] = {}
        self._processors = len(os.sched_getaffinity(0))

    def replies(self) -> Iterator[Reply]:
        try:
            while self._waiting or self._asked:
                for reply in (*self._begun(), *self._heard(), *self._late()):
                    self._waiting.extend(self._follow_up(reply))
                    yield reply
                reap_children()
        finally:
            for one in self._asked.values():
                one.leave()

    def _begun(self) -> Iterator[Reply]:
        """Begin what may begin now; yield a reply for each that there is no time for."""
        for probe in [self._waiting.popleft() for _ in range(len(self._waiting))]:
            seconds = min(probe.seconds, self._until - time.monotonic())
            if seconds < (_LEAST_PERL_SECONDS if probe.is_perl else _LEAST_SECONDS):
                yield Reply(probe.name, "", "failed", 0.0, "not asked: the time is over")
            elif probe.is_perl and self._perls() >= self._processors:
                self._waiting.append(probe)
            else:
                one = _RunningProbe(probe, seconds)
                self._asked[one.fd] = one

    def _perls(self) -> int:
        return sum(one.probe.is_perl for one in self._asked.values())

    def _heard(self) -> Iterator[Reply]:
        if not self._asked:
            return
        soonest = min(one.until for one in self._asked.values())
        for fd in select.select(list(self._asked), [], [], max(0.0, soonest - time.monotonic()))[0]:
            found, ended = self._asked[fd].read()
            yield from found
            if ended:
                self._asked.pop(fd).leave()

    def _late(self) -> Iterator[Reply]:
        for one in [one for one in self._asked.values() if time.monotonic() >= one.until]:
            yield one.reply("timed out", "no answer in time: this is a finding")
            self._asked.pop(one.fd).leave()


class _RunningProbe:
    """A probe under way in its child."""

    def __init__(self, probe: Probe, seconds: float) -> None:
        self.probe = probe
        self.began = time.monotonic()
        self.until = self.began + seconds + _OVERTIME
        self.buffer = b""
        self.heard = False
        self.pid, self.fd = fork_child(lambda fd: _answer_probe(probe, seconds, fd))

    def read(self) -> tuple[list[Reply], bool]:
        """Return what has come, and whether that is all."""
        chunk = os.read(self.fd, 1 << 20)
        *lines, self.buffer = (self.buffer + chunk).split(b"\n")
        found = [Reply(**json.loads(line)) for line in lines]
        self.heard = self.heard or bool(found)
        if not chunk and not self.heard:
            found.append(self.reply("failed", "the probe died"))
        return found, not chunk

    def reply(self, outcome: str, text: str) -> Reply:
        return Reply(self.probe.name, "", outcome, round(time.monotonic() - self.began, 3), text)

    def leave(self) -> None:
        os.close(self.fd)
        kill_child(self.pid)


def _answer_probe(probe: Probe, seconds: float, fd: int) -> None:
    began = time.monotonic()
    try:
        for reply in probe.ask(seconds):
            _send_reply(fd, reply)
    except (QmpSilent, QmpError, OSError, ValueError, KeyError) as error:
        outcome = "timed out" if isinstance(error, QmpSilent) else "failed"
        _send_reply(fd, Reply(probe.name, "", outcome, round(time.monotonic() - began, 3), str(error)))


def _send_reply(fd: int, reply: Reply) -> None:
    data = json.dumps(asdict(reply)).encode() + b"\n"
    while data:
        data = data[os.write(fd, data) :]
