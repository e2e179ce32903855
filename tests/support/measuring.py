"""Measures which lines the processes of a test run execute: pytest's, a handler's, a command's, the host agent's.

`coverage` itself takes longer to start than most of these processes, and can't start in an isolated one (`-IS`, without
an environment). So each process records its lines itself with `sys.monitoring`, which costs only the first run of each
of our lines. It appends them to one file when it ends, and before it executes another program. A process that is killed
leaves nothing. `main` makes coverage's own data from that file.

`tests/measured/sitecustomize.py` calls `begin` in each process that sees the environment; an isolated one begins with
the lines of `prologue`. Python 3.11 has no `sys.monitoring`, and nothing is measured there.
"""

import atexit
import json
import os
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any

FILE = "BREAKGLASS_COVERAGE"  # the environment variable with the name of the file to which the tests' processes append
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_FOLDERS = ("agents/", "handler/")
_SIDES = 2  # of a branch
_savers: list[Callable[[], None]] = []  # of this process, once it records


def begin() -> None:
    """Begin to record this process, if the environment asks for it."""
    if file := _wanted():
        record(file)


def prologue() -> str:
    """Return the code with which an isolated program begins to record, or none if nothing is measured.

    The program has the checkout on its path.
    """
    file = _wanted()
    return f"from tests.support.measuring import record\nrecord({file!r})\n" if file else ""


def _wanted() -> str:
    """Return the file to append to, if any."""
    return os.environ.get(FILE, "") if hasattr(sys, "monitoring") else ""


class _Ran:
    """The lines that ran in one code object, and the branches that were taken, as offsets in its bytes."""

    def __init__(self, code: CodeType, path: str) -> None:
        self.code, self.path = code, path
        self.lines: set[int] = set()
        self.branches: dict[int, set[int]] = {}


def record(file: str) -> None:
    """Record the lines and branches that this process and its forks run, in each of their threads."""
    ran = _monitor(f"{os.path.dirname(file)}/code/")

    def save() -> None:
        found = [
            (one.path, _name(one.code), list(one.lines), [(at, to) for at, tos in one.branches.items() for to in tos])
            for one in list(ran.values())  # other threads may continue
            if one.lines
        ]
        forget()
        if not found:
            return
        try:
            fd = os.open(file, os.O_WRONLY | os.O_APPEND)
            os.write(fd, json.dumps(found).encode() + b"\n")  # in one write, so that processes don't mix their lines
            os.close(fd)
        except OSError:  # the file can't be seen here or the disk is full; the program must run in any case
            pass

    def forget() -> None:
        for one in list(ran.values()):
            one.lines, one.branches = set(), {}

    def begin_child() -> None:
        forget()
        vars(sys)["monitoring"].restart_events()  # its parent may be killed, and would then lose the earlier lines

    def saving(ending: Callable[..., Any]) -> Callable[..., Any]:
        def ended(*arguments: Any) -> Any:
            save()
            return ending(*arguments)

        return ended

    _savers.append(save)
    atexit.register(save)
    os.register_at_fork(after_in_child=begin_child)
    for name in ("_exit", "execv", "execve"):
        setattr(os, name, saving(getattr(os, name)))


def flush() -> None:
    """Append what this process has run since its start or the last flush, and record all lines again."""
    for save in _savers:
        save()
        vars(sys)["monitoring"].restart_events()


def _monitor(copy: str) -> dict[int, _Ran]:
    """Begin to record. Return the lines of each of our code objects, by its id because hashing one is slow.

    The package may run from a copy of the checkout: see own_copy.py.
    """
    sources = tuple(f"{place}{folder}" for place in (f"{ROOT}/", copy) for folder in _FOLDERS)
    monitoring: Any = vars(sys)["monitoring"]  # Python 3.11 has none
    tool, events, disable = monitoring.COVERAGE_ID, monitoring.events, monitoring.DISABLE
    ran: dict[int, _Ran] = {}
    real: dict[str, str] = {}  # for each directory, because our package's may be a link

    def started(code: CodeType, offset: int) -> object:
        if id(code) in ran:
            return disable
        directory, base = os.path.split(code.co_filename)
        if directory not in real:
            real[directory] = os.path.realpath(directory)
        path = f"{real[directory]}/{base}"
        if path.startswith(sources) and path.endswith(".py"):
            ran[id(code)] = _Ran(code, path)  # keeps the code object alive, and so its id unique
            monitoring.set_local_events(tool, code, events.LINE | events.BRANCH)
        return disable

    def line(code: CodeType, number: int) -> object:
        ran[id(code)].lines.add(number)
        return disable

    def branch(code: CodeType, offset: int, to: int) -> object:
        seen = ran[id(code)].branches.setdefault(offset, set())
        seen.add(to)
        return disable if len(seen) == _SIDES else None  # if one side is disabled, so is the other

    monitoring.use_tool_id(tool, "breakglass")
    monitoring.register_callback(tool, events.PY_START, started)
    monitoring.register_callback(tool, events.LINE, line)
    monitoring.register_callback(tool, events.BRANCH, branch)
    monitoring.set_events(tool, events.PY_START)
    return ran


def _name(code: CodeType) -> list[object]:
    """Return a name that distinguishes a code object from the others in its file."""
    return [code.co_firstlineno, code.co_qualname, len(code.co_code)]


# --- after the tests --------------------------------------------------------------------------------------------


def main(file: str) -> None:
    """Write coverage's data from the processes' lines, including the files that none of them ran.

    Lines that ran in a copy of the checkout count for the checkout.
    """
    from pathlib import Path

    from coverage import CoverageData

    copy, sources = f"{os.path.dirname(file)}/code/", [Path(ROOT, folder) for folder in _FOLDERS]
    found = {str(path): _Found(str(path)) for source in sources for path in source.rglob("*.py")}
    for line in set(Path(file).read_text(errors="replace").splitlines()):
        try:
            ran = json.loads(line)
        except ValueError:  # the process was killed while it wrote
            continue
        for place, name, lines, branches in ran:
            path = f"{ROOT}/{place.removeprefix(copy)}" if place.startswith(copy) else place
            if path in found:
                found[path].add(name, lines, branches)
    arcs = {path: each.arcs for path, each in found.items()}
    data = CoverageData()
    data.erase()
    data.add_arcs(arcs)
    data.touch_files(arcs)
    data.write()


class _Found:
    """The lines and branches of one file that ran."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.arcs: set[tuple[int, int]] = set()
        self._resolvers: dict[str, Any] = {}
        self._known: set[tuple[str, int, int]] = set()

    def add(self, name: list[object], lines: list[int], branches: list[tuple[int, int]]) -> None:
        """Add the lines and branches of one code object."""
        self.arcs.update((line, line) for line in lines)
        key = str(name)
        new = {(key, at, to) for at, to in branches} - self._known
        if not new:
            return
        self._known |= new
        if not self._resolvers:
            self._read()
        arcs = [self._resolvers[key].resolve(at, to) for _, at, to in new]
        self.arcs.update(arc for arc in arcs if arc)

    def _read(self) -> None:
        """Ask coverage to which line each branch of the file goes."""
        import dis
        from pathlib import Path

        from coverage import bytecode
        from coverage.sysmon import compute_multiline_map

        # coverage itself uses it only on Python 3.14 and later, where this attribute is gone
        bytecode.RETURNS.update(dis.opmap[name] for name in ("RETURN_CONST",) if name in dis.opmap)
        lines = compute_multiline_map(self._path)
        parser = bytecode.ByteParser(text=Path(self._path).read_text("utf-8"), filename=self._path)
        for code in parser.code_objects():
            resolver = bytecode.BranchArcResolver(code, bytecode.bytes_to_lines(code), lines)
            self._resolvers[str(_name(code))] = resolver


if __name__ == "__main__":
    main(*sys.argv[1:])
