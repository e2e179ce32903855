"""Sends signals to processes that a test has looked up, and that may have ended since.

Many look-ups return 0 for "there is none". kill(2) sends a signal for process 0 to the caller's own process group, and
so to the whole run and the program that started it.
"""

import os
import signal


def signal_process(pid: int | None, number: signal.Signals) -> None:
    """Send a signal to one process. Fail if the look-up found none."""
    assert pid, f"there is no process to send {number.name} to"
    os.kill(pid, number)


def signal_group(leader: int, number: signal.Signals) -> None:
    """Send a signal to a process group other than the run's own. Fail if the look-up found none."""
    assert leader not in (0, os.getpgid(0)), f"{number.name} was to go to the run itself"
    os.killpg(leader, number)
