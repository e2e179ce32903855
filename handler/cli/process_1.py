"""Process 1 of a container: it waits for every process that has lost its parent, and does nothing else.

The kernel gives process 1 the orphans of its namespace, and each stays a zombie until it is waited for. The handler
can't do that beside its own work: it would take the exit codes of children that it waits for itself.
"""

import os
import signal

_FORWARDED = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
_SIGNALLED = 128  # added to the signal's number, as a shell does


def leave_process_1() -> None:
    """Return at once in an ordinary process. In process 1, return in a child, and end with its exit code.

    The child gets the signals that process 1 gets.
    """
    if os.getpid() != 1:
        return
    waited = {*_FORWARDED, signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, waited)  # a blocked signal stays there until it is waited for
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # Ctrl-C goes to process 1 alone, which forwards it: two would end the handler without grace
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return
    while True:
        number = signal.sigwait(waited)
        if number != signal.SIGCHLD:
            _forward(child, number)
        elif (status := _reap(child)) is not None:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else _SIGNALLED - code)


def _forward(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except PermissionError:  # root without CAP_KILL, and the handler has become another user: be that one too
        with open(f"/proc/{child}/status") as status:
            os.seteuid(next(int(line.split()[1]) for line in status if line.startswith("Uid:")))
        os.kill(child, number)


def _reap(child: int) -> int | None:
    """Wait for all that have ended; return the child's status if it is among them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            return status
        if pid == 0:
            return None
