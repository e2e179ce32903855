"""Stops random processes of the tests that run now, each for up to a second or so, as a busy machine does.

Start it beside `./dev test --all`. What then fails is a race of a test, of a stand-in or of the product. QEMU is
spared, because a QEMU that is stopped is a fault that the product reports.
"""

import argparse
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OURS = (b"breakglass", b"PYTEST_", b"BREAKGLASS_")  # in the command line or the environment
# unshare and nsenter stop with their child, and only a person continues them
SPARED = ("qemu", "kvm", "unshare", "nsenter")


def processes() -> Iterator[int]:
    """Yield the pids of the tests and of everything that they have started, without this process and its parents."""
    own, pid = set[int](), os.getpid()
    while pid > 1:
        own.add(pid)
        pid = int(_stat(pid)[1])
    for pid in {int(path.name) for path in Path("/proc").glob("[0-9]*")} - own:
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            text = command + Path(f"/proc/{pid}/environ").read_bytes()
            is_spared = any(name in command.decode(errors="replace")[:200] for name in SPARED)
            if (
                (any(mark in text for mark in OURS) or b"sshd" in command)
                and not is_spared
                and _stat(pid)[0] not in "TtZ"
            ):
                yield pid


def _stat(pid: int) -> list[str]:
    """Return a process's state, its parent, and the later fields of its stat (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def stop(pid: int, seconds: float) -> None:
    """Stop a process now, and continue it later."""
    with suppress(OSError):
        pidfd = os.pidfd_open(pid)
        signal.pidfd_send_signal(pidfd, signal.SIGSTOP)
        threading.Timer(seconds, _continue, (pidfd,)).start()


def _continue(pidfd: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
    os.close(pidfd)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float, help="how long to do this")
    parser.add_argument("--every", type=float, default=0.5, help="the seconds between two stops of 1 in 40 processes")
    parser.add_argument("--most", type=float, default=1.0, help="the seconds of the longest stop")
    wanted = parser.parse_args()
    end, stops = time.monotonic() + wanted.seconds, 0
    while time.monotonic() < end:
        found = list(processes())
        for pid in random.sample(found, min(len(found), 1 + len(found) // 40)):
            stop(pid, random.uniform(0.1, wanted.most))
            stops += 1
        time.sleep(wanted.every)
    print(f"{stops} stops")


if __name__ == "__main__":
    main()
