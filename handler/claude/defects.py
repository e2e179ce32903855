"""Writes a defect of the runner as a line of the log, which is its standard error. It imports few modules.

The runner waits for its imports, so this uses neither the log of the handler (audit.py) nor `traceback`.
"""

import json
import os
import select
import sys
import threading
import time
from types import TracebackType

LOG = 2
_MOST_CHARACTERS = 1500  # of each text: a line of one page is written whole, or not at all


def log_defects() -> None:
    """Write what ends this process, or a thread of it, as one line in place of a traceback."""
    sys.excepthook = _on_exception
    threading.excepthook = lambda arguments: _log(arguments.exc_value, arguments.exc_traceback)


def _on_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _log(error, trace)


def _log(error: BaseException | None, trace: TracebackType | None) -> None:
    """Write a line as docs/logs.md has it, unless its reader is late: the turn's lock must not wait for that."""
    places = []
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno} {trace.tb_frame.f_code.co_name}")
        trace = trace.tb_next
    line = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "level": "error",
        "event": "defect",
        "where": "runner",
        "error": repr(error)[:_MOST_CHARACTERS],
        "trace": "\n".join(places)[-_MOST_CHARACTERS:],
    }
    try:
        if select.select([], [LOG], [], 0)[1]:
            os.write(LOG, json.dumps(line).encode() + b"\n")
    except OSError:
        pass
