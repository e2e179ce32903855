"""`./dev mutants`: small mistakes in the path to power and in the verdict, each of which a test should find.

First the tests run once, and `measuring` notes which lines each of them runs, in started host agents too. Then each
mutant, one small change in a copy of the checkout, is tried by the tests that ran its line: first those that start
nothing, then those that start a host, the quickest first, for --seconds at most. It survives if they pass. A test that
starts a host has to fail twice, so that mere load kills no mutant.

What was found is kept in the virtual environment, so an interrupted run continues: a test's lines until its file or the
code changes, a killed mutant until its file or the test that found it changes, and any other until a test or the
code changes. EQUIVALENT lists mutants that have no effect, each with the reason. They are not tried.

This module is also a plugin of pytest. It notes the lines, and keeps the order of the tests.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import pytest

from ..support import measuring
from ..unit.test_layout import ROOT, files_to_power

AT_ONCE = 3  # test files in one run of those that note lines; what it noted is kept
FOLDERS = ("tests/unit", "tests/agent", "tests/handler", "tests/model")
STORE = Path(sys.prefix, "mutants")
_OPTIONS = ("-p", "tests.bench.mutants", "-m", "all or not all")
EQUIVALENT = ROOT / "tests/data/equivalent_mutants.txt"
_PAIRS: tuple[tuple[type[ast.AST], type[ast.AST]], ...] = (
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn), (ast.Is, ast.IsNot)),
    *((ast.And, ast.Or), (ast.Add, ast.Sub)),
)
SWAPS = dict(_PAIRS) | {second: first for first, second in _PAIRS}


class Noted(NamedTuple):
    """A test that passed, and what it ran."""

    name: str
    slow: bool
    seconds: float
    lines: list[str]


# --- which test ran which line ---


class _Noting:
    """Notes for each test its lines, unless it fails even without a mutant."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.phases: list[tuple[int, float, bool]] = []  # the size of the file of lines, seconds, passed

    def pytest_runtest_logstart(self) -> None:
        """Leave out what ran before the test, such as imports."""
        measuring.flush()
        self.phases = [(self.file.stat().st_size, 0.0, True)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        measuring.flush()
        self.phases.append((self.file.stat().st_size, report.duration, report.passed))
        if report.when == "teardown":
            sizes, seconds, passed = zip(*self.phases, strict=True)
            if all(passed):
                row = [report.nodeid, "slow" in report.keywords, sum(seconds), min(sizes), max(sizes)]
                with self.file.with_suffix(".tests").open("a") as index:
                    index.write(json.dumps(row) + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """Note lines, if the environment asks for it."""
    if file := os.environ.get(measuring.FILE):
        config.pluginmanager.register(_Noting(Path(file)))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the order of the tests of the command line."""
    order = {name: number for number, name in enumerate(config.args)}
    items.sort(key=lambda item: order.get(item.nodeid, 0))


def _run_noting(place: Path, files: list[str]) -> list[Noted]:
    with tempfile.TemporaryDirectory(prefix="bg") as directory:
        file = Path(directory, "ran")
        for each in (file, index := file.with_suffix(".tests")):
            each.touch()
        command = [sys.executable, "-m", "pytest", "-q", *_OPTIONS, *files]
        environment = _environment(place) | {measuring.FILE: str(file), measuring.AT_ONCE: "1"}
        subprocess.run(command, cwd=place, env=environment, stdout=subprocess.DEVNULL, check=False)
        data, found = file.read_bytes(), []
        for row in index.read_text().splitlines():
            name, slow, seconds, start, end = json.loads(row)
            every = [code for each in data[start:end].splitlines() for code in _codes_of(each)]
            ran = {f"{os.path.relpath(path, place)}:{number}" for path, lines in every for number in lines}
            found.append(Noted(name, slow, seconds, sorted(ran)))
    return found


def _codes_of(line: bytes) -> list[list[Any]]:
    """Return what a process ran, or nothing if it still writes that."""
    try:
        codes: list[list[Any]] = json.loads(line)
    except ValueError:
        return []
    return codes


def files_of_tests() -> dict[str, str]:
    """Return the digest of each file of tests that may find a mutant."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("test_*.py"))]
    return {str(path.relative_to(ROOT)): _digest(path.read_bytes()) for path in paths}


def note_lines(places: "SimpleQueue[Copy]", workers: ThreadPoolExecutor) -> list[Noted]:
    """Return what each test ran in a copy. It is kept until the code or the test's file changes."""
    code = b"".join(path.read_bytes() for path in targets())
    stored = {file: STORE / _digest(code + digest.encode()) for file, digest in files_of_tests().items()}
    missing = [file for file, path in stored.items() if not path.exists()]

    def note(files: list[str]) -> None:
        place = places.get()
        noted = _run_noting(place.directory, files)
        places.put(place)
        for file in files:
            stored[file].write_text(json.dumps([test for test in noted if test.name.startswith(f"{file}::")]))
        print(f"noted {len(noted)} tests of {' '.join(files)}", file=sys.stderr, flush=True)

    list(workers.map(note, [missing[first : first + AT_ONCE] for first in range(0, len(missing), AT_ONCE)]))
    return [Noted(*row) for path in stored.values() for row in json.loads(path.read_text())]


# --- the mutants ---


class Mutant(NamedTuple):
    """One change: in a file, the bytes between two offsets become another text."""

    file: str
    function: str  # none if the line runs at the import
    lines: tuple[int, int]  # where the expression begins, and where its statement does
    start: int
    end: int
    before: str
    after: str
    number: int = 1  # among the same changes in the function

    def __str__(self) -> str:
        number = f" #{self.number}" if self.number > 1 else ""
        return f"{self.file}:{self.function}: {self.before} -> {self.after}{number}"


def targets() -> list[Path]:
    """Return the files of the path to power, and those of the verdict."""
    return sorted({*files_to_power(), *(ROOT / "agents/pve/forensics").glob("verdict*.py")})


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of a file."""
    data, starts, seen = path.read_bytes(), [0], Counter[tuple[str, str, str]]()
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node, function, begin in _code(ast.parse(data), "", 0):
        changed = _change(node)
        if changed is not None:
            first = starts[node.lineno - 1] + node.col_offset
            last = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
            after = f"({ast.unparse(changed)})" if isinstance(node, ast.expr) else ast.unparse(changed)
            before = " ".join(data[first:last].decode().split())
            seen[function, before, after] += 1
            number = seen[function, before, after]
            name = str(path.relative_to(ROOT))
            yield Mutant(name, function, (node.lineno, begin), first, last, before, after, number)


def _code(node: ast.AST, function: str, begin: int) -> Iterator[tuple[ast.expr | ast.stmt, str, int]]:
    """Yield the statements and expressions below a node that run, without annotations and without parts of texts.

    With each comes the function whose call runs it, and the line where its statement begins.
    """
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.JoinedStr) or name in ("annotation", "returns", "bases", "decorator_list"):
                continue
            inside, line = function, child.lineno if isinstance(child, ast.stmt) else begin
            if name == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                inside = f"{function}.{node.name}".removeprefix(".")
            if isinstance(child, ast.expr | ast.stmt):
                yield child, inside, line
            if isinstance(child, ast.AST):
                yield from _code(child, inside, line)


def _change(node: ast.expr | ast.stmt) -> ast.AST | None:
    """Return a node with one small mistake, or None if this kind of node gets none."""
    new = copy.deepcopy(node)
    if isinstance(new, ast.Compare) and type(new.ops[0]) in SWAPS:
        new.ops[0] = SWAPS[type(new.ops[0])]()  # type: ignore[call-overload]
    elif isinstance(new, ast.BoolOp | ast.BinOp) and type(new.op) in SWAPS:
        new.op = SWAPS[type(new.op)]()  # type: ignore[assignment]
    elif isinstance(new, ast.UnaryOp) and isinstance(new.op, ast.Not):
        return new.operand
    elif isinstance(new, ast.Constant) and isinstance(new.value, int | float):
        new.value = not new.value if isinstance(new.value, bool) else new.value + 1
    elif isinstance(new, ast.IfExp):
        new.body, new.orelse = new.orelse, new.body
    elif isinstance(new, ast.Raise) or (isinstance(new, ast.Expr) and isinstance(new.value, ast.Call)):
        return ast.Pass()
    else:
        return None
    return new


def sample(seed: int, count: int) -> list[Mutant]:
    """Return a random sample of all mutants, most of which stay in it when the code changes."""
    every = [mutant for path in targets() for mutant in mutants_of(path)]
    return sorted(every, key=lambda mutant: _digest(f"{seed} {mutant}".encode()))[:count]


def equivalent() -> set[str]:
    """Return the names of the mutants that EQUIVALENT lists, each before the reason."""
    return {line.partition("  # ")[0] for line in EQUIVALENT.read_text().splitlines()}


# --- the tries ---


class Fate(NamedTuple):
    """What became of a mutant."""

    end: str  # killed, or why not; a busy machine can take too long without a mistake
    by: str  # the test that killed it, if it was one test
    seconds: float


class Copy:
    """A copy of the checkout, and the process that runs its tests."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.cache = directory, directory / "cache"
        self._sound: dict[str, bool] = {}
        shutil.copytree(ROOT, directory, symlinks=True, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
        directory.chmod(0o755)  # for the tests that run a handler as another user
        (directory / "package").mkdir()
        (directory / "package/breakglass").symlink_to(directory / "handler")
        # The byte code is valid for the same bytes of a source only, because a mutant may have the time and the size of
        # another.
        command = [sys.executable, "-m", "compileall", "-q", "-f", "--invalidation-mode", "checked-hash"]
        subprocess.run([*command, "handler", "agents"], cwd=directory, check=True)
        self._runs = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_pytest"],
            cwd=directory,
            env=_environment(directory),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the process."""
        self._runs.communicate()

    @contextmanager
    def changed(self, mutant: Mutant) -> Iterator[None]:
        """Make a mutant of the copy for a while."""
        file = self.directory / mutant.file
        sound = file.read_bytes()
        file.write_bytes(sound[: mutant.start] + mutant.after.encode() + sound[mutant.end :])
        try:
            yield
        finally:
            file.write_bytes(sound)

    def is_sound(self, test: str) -> bool:
        """Tell whether a test passes without a mutant."""
        if test not in self._sound:
            self._sound[test] = self.pytest(600, test) == 0
        return self._sound[test]

    def pytest(self, limit: float, *arguments: str) -> int | None:
        """Return the exit code of pytest, or None if it took too long."""
        assert self._runs.stdin
        assert self._runs.stdout
        options = [*_OPTIONS, "-o", f"cache_dir={self.cache}", *arguments]
        self._runs.stdin.write(json.dumps([limit, *options]) + "\n")
        self._runs.stdin.flush()
        code: int | None = json.loads(self._runs.stdout.readline())
        return code


def _environment(directory: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": f"{directory}/package:{directory}/tests/measured"}


def fate(place: Copy, mutant: Mutant, tests: list[Noted], most: float) -> Fate:
    """Try a mutant in a copy with some tests."""
    began, left, ended = time.monotonic(), most, "survived"
    for slow in (False, True):
        chosen: list[str] = []
        limit = 60.0
        for test in sorted((test for test in tests if test.slow == slow), key=lambda test: test.seconds):
            if test.seconds > left and chosen:
                ended = "survived, not all tests ran"
                break
            chosen.append(test.name)
            left -= test.seconds
            limit += 5 * test.seconds
        if slow:  # a file's tests may share a host
            first = {_file_of(name): number for number, name in reversed([*enumerate(chosen)])}
            chosen.sort(key=lambda name: first[_file_of(name)])
        while chosen:
            with place.changed(mutant):
                code, failed = _first_failure(place, limit, chosen)
                again = code != 0 and (not slow or not failed or _first_failure(place, limit, [failed])[0] != 0)
            if code == 0:
                break
            if again and (not failed or place.is_sound(failed)):
                return Fate("took too long" if code is None else "killed", failed, _since(began))
            if failed not in chosen:
                break
            chosen = chosen[chosen.index(failed) + 1 :]  # it fails by chance, or without a mutant
    return Fate(ended, "", _since(began))


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def _first_failure(place: Copy, limit: float, tests: list[str]) -> tuple[int | None, str]:
    """Return the exit code of pytest, and the test that failed, if one did."""
    failures = place.cache / "v/cache/lastfailed"
    failures.unlink(missing_ok=True)
    code = place.pytest(limit, "-x", *tests)
    if code == pytest.ExitCode.USAGE_ERROR:  # nothing can be imported, or the mutant renamed a row of a table
        code = place.pytest(limit, "-x", *dict.fromkeys(map(_file_of, tests)))
    return code, next(iter(json.loads(failures.read_text())), "") if failures.exists() else ""


def _file_of(test: str) -> str:
    return test.partition("::")[0]


# --- the memory of earlier runs ---


class Memory:
    """What became of each mutant, in a file that grows by a line for each try."""

    def __init__(self) -> None:
        self.file, self.lock = STORE / "fates", threading.Lock()
        self.tests = files_of_tests()
        self.all_tests = _digest(json.dumps([*self.tests.items(), *_digests(targets())]).encode())
        self.known: dict[str, Any] = {}
        if self.file.exists():
            self.known = {row["mutant"]: row for row in map(json.loads, self.file.read_text().splitlines())}

    def _state(self, mutant: Mutant, by: str) -> list[str]:
        """Return what the fate of a mutant depends on."""
        [code] = _digests([ROOT / mutant.file])
        return [code, self.tests.get(_file_of(by), "")] if by else [self.all_tests]

    def get(self, mutant: Mutant, most: float) -> Fate | None:
        """Return the fate of a mutant, if it would be the same today."""
        row = self.known.get(str(mutant))
        if row is None or row["state"] != self._state(mutant, row["fate"][1]):
            return None
        found = Fate(*row["fate"])
        return None if found.end.endswith("not all tests ran") and row["most"] < most else found

    def add(self, mutant: Mutant, found: Fate, most: float) -> None:
        """Remember a fate."""
        row = {"mutant": str(mutant), "state": self._state(mutant, found.by), "most": most, "fate": found}
        with self.lock, self.file.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digests(paths: list[Path]) -> list[str]:
    return [_digest(path.read_bytes()) for path in paths]


# --- the command ---


def _covering(mutant: Mutant, tests: list[Noted], by_line: dict[str, list[Noted]]) -> list[Noted]:
    """Return the tests that may find a mutant.

    What runs at an import is not noted, so each quick test may find it that runs the module or whose file names it.
    """
    found = next((by_line[at] for line in mutant.lines if (at := f"{mutant.file}:{line}") in by_line), [])
    if mutant.function:
        return found
    name = re.compile(rf"\b{Path(mutant.file).stem}\b")
    near = {file for file in files_of_tests() if name.search((ROOT / file).read_text())}
    users = {each.name for line, those in by_line.items() if line.startswith(f"{mutant.file}:") for each in those}
    quick = [each for each in tests if not each.slow and (each.name in users or _file_of(each.name) in near)]
    return [*found, *(each for each in quick if each not in found)]


def main(arguments: list[str]) -> int:
    """Try a sample of the mutants, or a piece of it; print the fate of each, and the counts."""
    parser = argparse.ArgumentParser(prog="./dev mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="picks the sample")
    parser.add_argument("--count", type=int, default=300, help="mutants in the sample")
    parser.add_argument("--piece", default="1/1", metavar="K/N", help="try only the K-th of N parts")
    parser.add_argument("--seconds", type=float, default=60, help="limit for the tests of a mutant, as noted")
    parser.add_argument("--jobs", type=int, default=2, help="how many mutants are tried at the same time")
    chosen = parser.parse_args(arguments)
    piece, pieces = map(int, chosen.piece.split("/"))
    mutants, ignored, counts = sample(chosen.seed, chosen.count)[piece - 1 :: pieces], equivalent(), Counter[str]()
    STORE.mkdir(exist_ok=True)
    memory, places, began = Memory(), SimpleQueue[Copy](), time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory,
        ExitStack() as copies,
        ThreadPoolExecutor(chosen.jobs) as workers,
    ):
        Path(directory).chmod(0o755)
        for number in range(chosen.jobs):
            places.put(copies.enter_context(closing(Copy(Path(directory, str(number))))))
        tests, by_line = note_lines(places, workers), defaultdict[str, list[Noted]](list)
        for test in tests:
            for line in test.lines:
                by_line[line].append(test)

        def try_one(mutant: Mutant) -> None:
            found = memory.get(mutant, chosen.seconds)
            if str(mutant) in ignored:
                found = Fate("equivalent", "", 0)
            elif found is None:
                place = places.get()
                covering = _covering(mutant, tests, by_line)
                found = fate(place, mutant, covering, chosen.seconds) if covering else Fate("no test runs it", "", 0)
                places.put(place)
                memory.add(mutant, found, chosen.seconds)
            counts[found.end] += 1
            print(f"{found.end}: {mutant} (line {mutant.lines[0]}, {found.seconds} s, {found.by})", flush=True)

        list(workers.map(try_one, mutants))
    print(f"{len(mutants)} mutants of seed {chosen.seed} in {time.monotonic() - began:.0f} s: {dict(counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
