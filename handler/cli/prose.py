"""Writes to the log what libraries and Python itself would write to standard error."""

import logging
import sys
import threading
import traceback
from types import TracebackType

from .. import audit

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
