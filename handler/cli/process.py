"""The handler's process: what process 1 of a container does, and where the words of libraries go."""

import logging
import os
import signal
import sys
import threading
import traceback
from types import TracebackType

from ..base import audit

# --- Process 1 of a container. It waits for every process that has lost its parent, and does nothing else ---
#
# The kernel gives process 1 the orphans of its namespace, and each stays a zombie until it is waited for. The handler
# can't do that beside its own work, because it would take the exit codes of children that it waits for itself.

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
            os.kill(child, number)
        elif (status := _reap(child)) is not None:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else _SIGNALLED - code)


def _reap(child: int) -> int | None:
    """Wait for all that have ended; return the child's status if it is among them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            return status
        if pid == 0:
            return None


# --- Writes to the log what libraries and Python itself would write to standard error ---

MOST_CHARACTERS = 8000  # of a text; the end of a trace says more than its beginning


class LibraryLog(logging.Handler):
    """Takes the records of libraries, from warnings on."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record as one line."""
        try:
            text = record.getMessage()
        except Exception as why:  # the library's arguments don't fit its own text
            text = f"{record.msg} ({why!r})"
        if record.levelno < logging.ERROR:
            audit.note("library", logger=record.name, text=text[:MOST_CHARACTERS])
            return
        error = record.exc_info[1] if record.exc_info else None
        audit.note("defect", where=record.name, error=text[:MOST_CHARACTERS], trace=_trace(error))


def capture_prose() -> None:
    """Write to the log, from now on, what this process would write to standard error, one line each."""
    logging.basicConfig(handlers=[LibraryLog()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    sys.excepthook = _on_exception
    sys.unraisablehook = _on_unraisable
    threading.excepthook = _on_thread_exception


def _on_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write what ends the process. The log's thread has ended by now."""
    audit.note_at_once("defect", where="main", error=repr(error), trace=_trace(error))


def _on_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    error = unraisable.exc_value
    audit.note("defect", where=unraisable.err_msg or "finalizer", error=repr(error), trace=_trace(error))


def _on_thread_exception(arguments: threading.ExceptHookArgs) -> None:
    name = arguments.thread.name if arguments.thread is not None else ""
    error = arguments.exc_value
    audit.note("defect", where=f"thread {name}", error=repr(error), trace=_trace(error))


def _trace(error: BaseException | None) -> str:
    return "".join(traceback.format_exception(error))[-MOST_CHARACTERS:] if error is not None else ""
