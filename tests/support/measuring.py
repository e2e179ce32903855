"""Measuring what isolated programs run: the host agent and chat's runner, started with `-IS` and no environment.

`coverage` can't start there by itself and takes longer to start than the agent does. So those programs load only its
tracer, and append what they ran to one file: when they end, and before they become another program. `main` makes
coverage's own data of that file. A program that is killed leaves nothing.
"""

import atexit
import json
import os
import sys
from collections.abc import Callable
from importlib.machinery import ExtensionFileLoader
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from typing import Any

FILE = "BREAKGLASS_COVERAGE"  # in the environment of the tests: the file that isolated programs append to
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def prologue() -> str:
    """Return the lines with which a program begins to record; none when nothing is measured.

    The program has the checkout on its path.
    """
    file = os.environ.get(FILE)
    tracer = find_spec("coverage.tracer") if file else None
    if tracer is None:
        return ""
    return f"from tests.support.measuring import record\nrecord({file!r}, {tracer.origin!r})\n"


def record(file: str, tracer: str) -> None:
    """Record the branches that this process and its forks run."""
    ran: dict[str, set[int]] = {}
    _trace(tracer, ran)

    def save() -> None:
        lines = {name: list(arcs) for name, arcs in ran.items() if arcs}
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
        for arcs in ran.values():
            arcs.clear()  # in place: the tracer holds them

    def saving(ending: Callable[..., Any]) -> Callable[..., Any]:
        def ended(*arguments: Any) -> Any:
            save()
            return ending(*arguments)

        return ended

    atexit.register(save)
    os.register_at_fork(after_in_child=forget)
    for name in ("_exit", "execv", "execve"):
        setattr(os, name, saving(getattr(os, name)))


def _trace(path: str, ran: dict[str, set[int]]) -> None:
    """Start coverage's tracer as its `Collector` does."""
    spec = spec_from_file_location("coverage.tracer", path, loader=ExtensionFileLoader("coverage.tracer", path))
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)

    def wanted(name: str, frame: object) -> Any:
        told = module.CFileDisposition()
        told.original_filename = told.canonical_filename = told.source_filename = name
        told.trace = name.startswith((f"{_ROOT}/agents/", f"{_ROOT}/handler/"))
        told.reason, told.file_tracer, told.has_dynamic_filename = "", None, False
        return told

    tracer = module.CTracer()
    tracer.data, tracer.trace_arcs = ran, True
    tracer.should_trace, tracer.should_trace_cache = wanted, {}
    tracer.lock_data = tracer.unlock_data = lambda: None
    tracer.warn = tracer.disable_plugin = lambda *_: None
    tracer.file_tracers = {}
    tracer.concur_id_func = tracer.check_include = tracer.should_start_context = tracer.switch_context = None
    tracer.start()


# --- in the tests' own processes -----------------------------------------------------------------------------------


def main(file: str, data_file: str) -> None:
    """Make coverage's data of what the isolated programs appended."""
    from pathlib import Path

    from coverage import CoverageData

    found: dict[str, set[tuple[int, int]]] = {}
    for line in Path(file).read_text(errors="replace").splitlines():
        try:
            ran = json.loads(line)
        except ValueError:  # killed while it wrote
            continue
        for name, arcs in ran.items():
            found.setdefault(name, set()).update(map(_arc, arcs))
    data = CoverageData(data_file)
    data.add_arcs(found)
    data.write()


def _arc(packed: int) -> tuple[int, int]:
    """Unpack a pair of lines as coverage's `Collector.flush_data` does: 28 bits each, then their signs."""
    one, other = packed & 0xFFFFFFF, packed >> 28 & 0xFFFFFFF
    return (-one if packed >> 56 & 1 else one, -other if packed >> 57 & 1 else other)


if __name__ == "__main__":
    main(*sys.argv[1:])
