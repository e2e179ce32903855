"""Measures which lines the processes of a test run execute: pytest's, a handler's, a command's, the host agent's.

It measures no branches, because only coverage's private API knows the branches of a code object.

`coverage` itself takes longer to start than most of these processes, and can't start in an isolated one (`-IS`, without
an environment). So each process records its lines itself with `sys.monitoring`, which costs only the first run of each
of our lines. It appends them to one file when it ends, and before it executes another program. A process that is killed
leaves nothing, unless it appends each line at once. `main` makes coverage's own data from that file.

`tests/measured/sitecustomize.py` calls `begin` in each process that sees the environment; an isolated one begins with
the lines of `prologue`. `_Finder` adds them to the isolated programs of a turn, and binds the file into their sandbox.
Python 3.11 has no `sys.monitoring`, and nothing is measured there.
"""

import atexit
import json
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import CodeType, ModuleType
from typing import Any

FILE = "BREAKGLASS_COVERAGE"  # the environment variable with the name of the file to which the tests' processes append
AT_ONCE = "BREAKGLASS_COVERAGE_AT_ONCE"  # set if each line of a job counts for the test that waits for its answer
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_FOLDERS = ("agents/", "handler/")
_OF_A_TURN = ("chat.turn", "chat.start", "chat.proxy")  # isolated modules
_ALWAYS_KILLED = ("chat.proxy",)
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
    return _prologue(file, at_once=AT_ONCE in os.environ) if file else ""


def _prologue(file: str, at_once: bool = False) -> str:
    return f"from tests.support.measuring import record\nrecord({file!r}, {at_once})\n"


def _wanted() -> str:
    """Return the file to append to, if any."""
    return os.environ.get(FILE, "") if hasattr(sys, "monitoring") else ""


class _Ran:
    """The lines that ran in one code object. It keeps the code object alive, and so its id unique."""

    def __init__(self, code: CodeType, path: str) -> None:
        self.code, self.path, self.lines = code, path, set[int]()


def record(file: str, at_once: bool = False) -> None:
    """Record the lines that this process and its forks run, in each of their threads.

    `at_once` appends each line as it runs, for a process that is always killed.
    """
    sys.meta_path.insert(0, _Finder(file))

    def append(found: Sequence[tuple[str, Sequence[int]]]) -> None:
        try:
            fd = os.open(file, os.O_WRONLY | os.O_APPEND)
            os.write(fd, json.dumps(found).encode() + b"\n")  # in one write, so that processes don't mix their lines
            os.close(fd)
        except OSError:  # the file can't be seen here or the disk is full; the program must run in any case
            pass

    ran = _monitor(f"{os.path.dirname(file)}/code/", append if at_once else None)

    def save() -> None:
        found = [(one.path, list(one.lines)) for one in list(ran.values()) if one.lines]  # other threads may continue
        forget()
        if found:
            append(found)

    def forget() -> None:
        for one in list(ran.values()):
            one.lines = set()

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


def _monitor(copy: str, append: Callable[[Sequence[tuple[str, Sequence[int]]]], None] | None) -> dict[int, _Ran]:
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
            ran[id(code)] = _Ran(code, path)
            monitoring.set_local_events(tool, code, events.LINE)
        return disable

    def line(code: CodeType, number: int) -> object:
        ran[id(code)].lines.add(number)
        if append:
            append([(ran[id(code)].path, [number])])
        return disable

    monitoring.use_tool_id(tool, "breakglass")
    monitoring.register_callback(tool, events.PY_START, started)
    monitoring.register_callback(tool, events.LINE, line)
    monitoring.set_events(tool, events.PY_START)
    return ran


# --- the processes of a turn ------------------------------------------------------------------------------------


class _Finder:
    """A finder that changes two modules as they are loaded. `importlib.abc` takes longer to import than all else here.

    The command line of an isolated program begins with the lines that record, and the sandbox of a turn shows it the
    file to which it appends. No environment variable reaches such a process.
    """

    def __init__(self, file: str) -> None:
        self._changes = {"breakglass.base.isolated": self._begin_isolated, "breakglass.chat.wall": self._show}
        self._file = file

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in self._changes:
            return None
        change = self._changes.pop(name)
        spec = PathFinder.find_spec(name, path, target)
        assert spec
        assert spec.loader
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            load(module)
            change(vars(module))

        vars(spec.loader)["exec_module"] = exec_module
        return spec

    def _begin_isolated(self, module: dict[str, Any]) -> None:
        isolated_command = module["isolated_command"]

        def measured(name: str, *arguments: str) -> list[str]:
            command: list[str] = isolated_command(name, *arguments)
            if name in _OF_A_TURN:
                own = _prologue(self._file, at_once=name in _ALWAYS_KILLED)
                command[3] = f"import sys; sys.path.insert(0, {ROOT!r})\n{own}{command[3]}"
            return command

        module["isolated_command"] = measured

    def _show(self, module: dict[str, Any]) -> None:
        def showing(wall: Callable[..., list[str]]) -> Callable[..., list[str]]:
            def shown(program: Sequence[str], *arguments: Any) -> list[str]:
                command = wall(program, *arguments)
                if any(self._file in word for word in program):  # it records
                    end = len(command) - len(program) - len(module["_in"]("/"))
                    command[end:end] = ["--bind", self._file, self._file, *module["_show"](f"{ROOT}/tests")]
                return command

            return shown

        for name in ("turn_wall", "network_wall"):
            module[name] = showing(module[name])


# --- after the tests --------------------------------------------------------------------------------------------


def main(file: str) -> None:
    """Write coverage's data from the processes' lines, including the files that none of them ran.

    Lines that ran in a copy of the checkout count for the checkout.
    """
    from pathlib import Path

    from coverage import CoverageData

    copy, sources = f"{os.path.dirname(file)}/code/", [Path(ROOT, folder) for folder in _FOLDERS]
    found = {str(path): set[int]() for source in sources for path in source.rglob("*.py")}
    for line in set(Path(file).read_text(errors="replace").splitlines()):
        try:
            ran = json.loads(line)
        except ValueError:  # the process was killed while it wrote
            continue
        for place, lines in ran:
            path = f"{ROOT}/{place.removeprefix(copy)}" if place.startswith(copy) else place
            if path in found:
                found[path].update(lines)
    data = CoverageData()
    data.erase()
    data.add_lines(found)
    data.touch_files(found)
    data.write()


if __name__ == "__main__":
    main(*sys.argv[1:])
