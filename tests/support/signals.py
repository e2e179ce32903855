"""Signals to processes that a test looked up, which may have ended meanwhile.

Many look-ups answer 0 for "there is none", and kill(2) sends what goes to process 0 to the caller's own process group:
the whole run, with whatever started it.
"""

import os
import signal


def signal_process(pid: int | None, number: signal.Signals) -> None:
    """Send a signal to one process; fail where the look-up found none."""
    assert pid, f"there is no process to send {number.name} to"
    os.kill(pid, number)


def signal_group(leader: int, number: signal.Signals) -> None:
    """Send a signal to a process group other than the run's own; fail where the look-up found none."""
    assert leader not in (0, os.getpgid(0)), f"{number.name} was to go to the run itself"
    os.killpg(leader, number)
