"""Ends a `qm` that this program started, and the worker process that the `qm` started.

`qm start|stop|reset|shutdown|reboot` do their work in a child that has called setsid(2) and is named after its task,
`task UPID:…` (pve-common, RESTEnvironment.pm fork_worker). The worker holds the VM's lock file and continues when `qm`
is killed, so this module finds and ends the worker first.
"""

import os
import select
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

from ..budget import QM_END_SECONDS
from .process import each_process, open_verified, process_ticks


@dataclass(frozen=True)
class _Victim:
    """A process to end, by a descriptor that can never name another process."""

    pid: int
    name: str
    pidfd: int

    def signal_group(self, number: signal.Signals) -> None:
        """Signal the process, with its group where it leads one, because a hook script is in there."""
        try:
            if os.getpgid(self.pid) == self.pid:
                os.killpg(self.pid, number)
            else:
                signal.pidfd_send_signal(self.pidfd, number)
        except OSError:
            pass


def end_qm(pid: int, gently: bool) -> list[str]:
    """End a `qm` and its worker; return the ones that survive SIGKILL, as `NAME (process PID)`.

    `gently` sends SIGTERM first, which `qm` passes on to its worker. Never end a `qm stop` with `gently` while
    QEMU has to live, because on SIGTERM its worker at once sends SIGTERM to QEMU. Takes 2 * QM_END_SECONDS at most.
    """
    victims = list(_find_victims(pid))
    if gently:
        for victim in victims[-1:]:
            victim.signal_group(signal.SIGTERM)
        _await_all(victims)
    for victim in victims:
        victim.signal_group(signal.SIGKILL)
    left = _await_all(victims)
    for victim in victims:
        os.close(victim.pidfd)
    return [f"{victim.name} (process {victim.pid})" for victim in left]


def _find_victims(pid: int) -> Iterator[_Victim]:
    """Yield the worker, then `qm` itself, whose pid can't be reused before this process, its parent, has reaped it."""
    for child in find_workers(pid):
        yield from _open_victim(child, "the worker of qm")
    yield from _open_victim(pid, "qm")


def _open_victim(pid: int, name: str) -> Iterator[_Victim]:
    ticks = process_ticks(pid)
    pidfd = open_verified(pid, lambda: ticks and process_ticks(pid) == ticks)
    if pidfd is not None:
        yield _Victim(pid, name, pidfd)


def find_workers(pid: int) -> list[int]:
    """Return the children of a `qm` that have a task's name. Reading stat never blocks."""
    return [child for child, name, fields in each_process() if name.startswith("task UPID") and fields[1] == str(pid)]


def _await_all(victims: list[_Victim]) -> list[_Victim]:
    """Return the processes that have not ended after QM_END_SECONDS."""
    until = time.monotonic() + QM_END_SECONDS
    left = list(victims)
    while left and (seconds := until - time.monotonic()) > 0:
        ended = select.select([victim.pidfd for victim in left], [], [], seconds)[0]
        left = [victim for victim in left if victim.pidfd not in ended]
    return left
