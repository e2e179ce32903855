"""Runs many probes at once, each in its own child, with a deadline that counts from its own start.

A probe that starts a Perl interpreter costs up to a second of processor time before it prints anything, so no more of
those probes run at a time than there are processors. A probe that hangs is itself a finding; this module does not wait
for its end.
"""

import json
import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict

from ..host.bounded import fork_child, kill_with_commands, reap_children
from ..host.qmp import QmpError, QmpSilent
from .probe import Probe, Reply

_OVERTIME = 0.3  # a command's own deadline comes this much earlier, so that its process ends and its output is kept
# With less time left, a probe does not start, because its lateness would then say nothing about the host.
_LEAST_SECONDS = 0.3
_LEAST_PERL_SECONDS = 3.0

FollowUp = Callable[[Reply], list[Probe]]


def no_follow_up(_: Reply) -> list[Probe]:
    """Return no further probes."""
    return []


def ask_together(questions: list[Probe], until: float, follow_up: FollowUp = no_follow_up) -> Iterator[Reply]:
    """Run these probes and those that `follow_up` returns for each reply; yield the replies until `until`."""
    return _Together(questions, until, follow_up).replies()


class _Together:
    """The probes of one look: the running ones by the descriptor of their child, and the waiting ones."""

    def __init__(self, questions: list[Probe], until: float, follow_up: FollowUp) -> None:
        self._until = until - _OVERTIME
        self._follow_up = follow_up
        self._waiting = deque(questions)
        self._running: dict[int, _RunningProbe] = {}
        self._processors = len(os.sched_getaffinity(0))

    def replies(self) -> Iterator[Reply]:
        try:
            while self._waiting or self._running:
                for reply in (*self._start_waiting(), *self._read_ready(), *self._expire_late()):
                    self._waiting.extend(self._follow_up(reply))
                    yield reply
                reap_children()
        finally:
            for probe in self._running.values():
                probe.abandon()

    def _start_waiting(self) -> Iterator[Reply]:
        """Start the probes that may start now; yield a reply for each probe that has too little time."""
        for probe in [self._waiting.popleft() for _ in range(len(self._waiting))]:
            seconds = min(probe.seconds, self._until - time.monotonic())
            if seconds < (_LEAST_PERL_SECONDS if probe.is_perl else _LEAST_SECONDS):
                yield Reply(probe.name, "", "failed", 0.0, "not asked: the time is over")
            elif probe.is_perl and self._count_perls() >= self._processors:
                self._waiting.append(probe)
            else:
                one = _RunningProbe(probe, seconds)
                self._running[one.fd] = one

    def _count_perls(self) -> int:
        return sum(one.probe.is_perl for one in self._running.values())

    def _read_ready(self) -> Iterator[Reply]:
        if not self._running:
            return
        soonest = min(one.until for one in self._running.values())
        for fd in select.select(list(self._running), [], [], max(0.0, soonest - time.monotonic()))[0]:
            found, ended = self._running[fd].read()
            yield from found
            if ended:
                self._running.pop(fd).abandon()

    def _expire_late(self) -> Iterator[Reply]:
        for one in [one for one in self._running.values() if time.monotonic() >= one.until]:
            yield one.reply("timed out", "no answer in time, which is a finding")
            self._running.pop(one.fd).abandon()


class _RunningProbe:
    """A probe that runs in its child."""

    def __init__(self, probe: Probe, seconds: float) -> None:
        self.probe = probe
        self.began = time.monotonic()
        self.until = self.began + seconds + _OVERTIME
        self.buffer = b""
        self.has_replied = False
        self.pid, self.fd = fork_child(lambda fd: _answer_probe(probe, seconds, fd))

    def read(self) -> tuple[list[Reply], bool]:
        """Return the replies that have come, and whether the probe has ended."""
        chunk = os.read(self.fd, 1 << 20)
        *lines, self.buffer = (self.buffer + chunk).split(b"\n")
        found = [Reply(**json.loads(line)) for line in lines]
        self.has_replied = self.has_replied or bool(found)
        if not chunk and not self.has_replied:
            found.append(self.reply("failed", "the probe died"))
        return found, not chunk

    def reply(self, outcome: str, text: str) -> Reply:
        return Reply(self.probe.name, "", outcome, round(time.monotonic() - self.began, 3), text)

    def abandon(self) -> None:
        os.close(self.fd)
        kill_with_commands(self.pid)


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
