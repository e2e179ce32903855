"""The handler's process: its work as process 1 of a container, and the log for messages of libraries."""

import logging
import os
import signal
import sys
import threading
import traceback
from types import TracebackType

from ..base import audit

# --- Process 1 of a container. It only waits for every process that has lost its parent ---
#
# The kernel gives process 1 the orphans of its namespace, and each stays a zombie until it is waited for. The handler
# can't do that itself, because it would also collect the exit codes of the children for which it waits elsewhere.

_FORWARDED = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
_SIGNALLED = 128  # added to the signal's number, as a shell does


def leave_process_1() -> None:
    """Return at once, except in process 1, which forks. Then only the child returns.

    Process 1 forwards its signals to the child, and exits with the child's exit code.
    """
    if os.getpid() != 1:
        return
    waited = {*_FORWARDED, signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, waited)  # a blocked signal stays pending until it is waited for
    child = os.fork()
    if child == 0:
        # so that Ctrl-C reaches the handler only through process 1; a second signal would end the handler at once
        os.setpgid(0, 0)
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
    """Wait for all processes that have ended. Return the child's status if the child is one of them."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            return status
        if pid == 0:
            return None


# --- Write to the log the messages that libraries and Python itself would write to standard error ---

MOST_CHARACTERS = 8000  # the most of a text, whose end is kept, because the end of a trace says most


class LibraryLog(logging.Handler):
    """Takes the records of libraries, at level warning and above."""

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
    """From now on, write messages for standard error to the log, one line each."""
    logging.basicConfig(handlers=[LibraryLog()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    sys.excepthook = _on_exception
    sys.unraisablehook = _on_unraisable
    threading.excepthook = _on_thread_exception


def _on_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Write the exception that ends the process. The log's thread has already ended."""
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
