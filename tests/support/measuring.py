"""Measuring what the processes of a test run execute: pytest's, a handler's, a command's, the host agent's.

`coverage` itself takes longer to start than most of them do, and can't start in an isolated one (`-IS`, without an
environment). So each process loads only its tracer, and appends what it ran to one file: when it ends, and before it
becomes another program. A process that is killed leaves nothing. `main` makes coverage's own data of that file.

`tests/measured/sitecustomize.py` calls `begin` in each process that sees the environment; an isolated one begins with
the lines of `prologue`.
"""

import atexit
import json
import os
import sys
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder
from types import FrameType
from typing import Any

FILE = "BREAKGLASS_COVERAGE"  # in the environment of the tests: the file that their processes append to
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_SOURCES = (f"{ROOT}/agents/", f"{ROOT}/handler/")

_TraceFunction = Callable[[FrameType, str, Any], Any]


def begin() -> None:
    """Record this process and its threads, if the environment asks for it and coverage is installed."""
    import threading

    if wanted := _wanted():
        threading.settrace(record(*wanted))


def prologue() -> str:
    """Return the lines with which an isolated program begins to record; none when nothing is measured.

    The program has the checkout on its path. Only its first thread is recorded.
    """
    wanted = _wanted()
    return f"from tests.support.measuring import record\nrecord{wanted!r}\n" if wanted else ""


def _wanted() -> tuple[str, str] | None:
    """Return the file to append to and coverage's tracer, which is found without the import of coverage."""
    file = os.environ.get(FILE)
    package = PathFinder.find_spec("coverage") if file else None
    tracer = PathFinder.find_spec("coverage.tracer", package.submodule_search_locations) if package else None
    return (file, tracer.origin) if file and tracer and tracer.origin else None


def record(file: str, tracer: str) -> _TraceFunction:
    """Record the branches that this thread and its forks run; return the trace function that begins another thread."""
    ran: dict[str, set[int]] = {}
    start = _tracing(tracer, ran)

    def save() -> None:
        lines = {name: list(arcs) for name, arcs in list(ran.items()) if arcs}  # other threads may go on
        forget()
        if not lines:
            return
        try:
            fd = os.open(file, os.O_WRONLY | os.O_APPEND)
            os.write(fd, json.dumps(lines).encode() + b"\n")  # one write: processes don't mix their lines
            os.close(fd)
        except OSError:  # out of sight from here, or there is no room: the program matters more
            pass

    def forget() -> None:
        for arcs in list(ran.values()):
            arcs.clear()  # in place: the tracer holds them

    def saving(ending: Callable[..., Any]) -> Callable[..., Any]:
        def ended(*arguments: Any) -> Any:
            save()
            return ending(*arguments)

        return ended

    def begin_thread(frame: FrameType, event: str, argument: object) -> Any:
        sys.settrace(None)
        return start()(frame, event, argument)

    start()
    atexit.register(save)
    os.register_at_fork(after_in_child=forget)
    for name in ("_exit", "execv", "execve"):
        setattr(os, name, saving(getattr(os, name)))
    return begin_thread


def _tracing(path: str, ran: dict[str, set[int]]) -> Callable[[], _TraceFunction]:
    """Return a function that starts coverage's tracer in the current thread, as its `Collector` does."""
    loader = ExtensionFileLoader("coverage.tracer", path)
    module: Any = loader.create_module(ModuleSpec("coverage.tracer", loader, origin=path))
    loader.exec_module(module)
    known: dict[str, Any] = {}  # of each file
    real: dict[str, str] = {}  # of each directory: that of our package may be a link
    tracers = []  # one that is freed stops the tracing of whichever thread frees it

    def disposition(name: str, frame: object) -> Any:
        told = module.CFileDisposition()
        directory, base = os.path.split(name)
        if directory not in real:
            real[directory] = os.path.realpath(directory)
        path = f"{real[directory]}/{base}"
        told.original_filename, told.canonical_filename, told.source_filename = name, path, path
        told.trace = path.startswith(_SOURCES) and path.endswith(".py")
        told.reason, told.file_tracer, told.has_dynamic_filename = "", None, False
        return told

    def start() -> _TraceFunction:
        tracer = module.CTracer()
        tracers.append(tracer)
        tracer.data, tracer.trace_arcs = ran, True
        tracer.should_trace, tracer.should_trace_cache = disposition, known
        tracer.lock_data = tracer.unlock_data = lambda: None
        tracer.warn = tracer.disable_plugin = lambda *_: None
        tracer.file_tracers = {}
        tracer.concur_id_func = tracer.check_include = tracer.should_start_context = tracer.switch_context = None
        started: _TraceFunction = tracer.start()
        return started

    return start


# --- after the tests --------------------------------------------------------------------------------------------


def main(file: str) -> None:
    """Write coverage's data of what the processes appended, with the files in it that none of them ran."""
    from pathlib import Path

    from coverage import CoverageData

    found: dict[str, set[tuple[int, int]]] = {
        str(path): set() for source in _SOURCES for path in Path(source).rglob("*.py")
    }
    for line in set(Path(file).read_text(errors="replace").splitlines()):
        try:
            ran = json.loads(line)
        except ValueError:  # killed while it wrote
            continue
        for name, arcs in ran.items():
            found.setdefault(name, set()).update(map(_arc, arcs))
    data = CoverageData()
    data.erase()
    data.add_arcs(found)
    data.touch_files(found)
    data.write()


def _arc(packed: int) -> tuple[int, int]:
    """Unpack a pair of lines as coverage's `Collector.flush_data` does: 28 bits each, then their signs."""
    one, other = packed & 0xFFFFFFF, packed >> 28 & 0xFFFFFFF
    return (-one if packed >> 56 & 1 else one, -other if packed >> 57 & 1 else other)


if __name__ == "__main__":
    main(*sys.argv[1:])
