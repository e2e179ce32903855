"""`./dev mutants`: small mistakes in the path to power and in the verdict, each of which a test should find.

The tests run once, and `measuring` notes which lines each of them ran, in started host agents too. Then each mutant,
one changed expression in a copy of the checkout, is tried by the tests that ran its line, the quickest first, for
TRY_SECONDS at most. It survives if they pass. This module is also the plugin of pytest that notes the lines.
"""

import argparse
import ast
import copy
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import pytest

from ..support import measuring
from ..unit.test_layout import ROOT, files_to_power

TRY_SECONDS = 60.0  # of tests, as long as they took in the first run
AT_ONCE = 12  # test files in one run of those that note lines; what it noted is kept
FOLDERS = ("tests/unit", "tests/agent", "tests/handler")
_PAIRS: tuple[tuple[type[ast.AST], type[ast.AST]], ...] = (
    *((ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.In, ast.NotIn), (ast.Is, ast.IsNot)),
    *((ast.And, ast.Or), (ast.Add, ast.Sub)),
)
SWAPS = dict(_PAIRS) | {second: first for first, second in _PAIRS}
Noted = dict[str, tuple[float, list[str]]]  # the seconds of each test, and its lines


# --- which test ran which line ---

_of_test: list[tuple[int, float, bool]] = []  # of each phase of a test: the size of the file, seconds, passed


def pytest_runtest_logstart() -> None:
    """Leave out what ran before the test, such as imports."""
    measuring.flush()
    _of_test[:] = [(Path(os.environ[measuring.FILE]).stat().st_size, 0.0, True)]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note which part of the file of lines came with a test, unless it fails even without a mutant."""
    measuring.flush()
    file = Path(os.environ[measuring.FILE])
    _of_test.append((file.stat().st_size, report.duration, report.passed))
    if report.when == "teardown":
        sizes, seconds, passed = zip(*_of_test, strict=True)
        if all(passed):
            with file.with_suffix(".tests").open("a") as index:
                index.write(json.dumps([report.nodeid, min(sizes), max(sizes), sum(seconds)]) + "\n")


def _run_noting(place: Path, files: list[str], marks: str) -> Noted:
    with tempfile.TemporaryDirectory(prefix="bg") as directory:
        file, found = Path(directory, "ran"), {}
        for each in (file, index := file.with_suffix(".tests")):
            each.touch()
        _pytest(place, "-p", "tests.bench.mutants", "-m", marks, *files, **{measuring.FILE: str(file)})
        data = file.read_bytes()
        for line in index.read_text().splitlines():
            test, start, end, seconds = json.loads(line)
            every = [code for each in data[start:end].splitlines() for code in json.loads(each)]
            ran = {f"{os.path.relpath(name, place)}:{number}" for name, _, lines, _ in every for number in lines}
            found[test] = (seconds, sorted(ran))
    return found


def note_lines(place: Path, quick: bool) -> Noted:
    """Return what each test ran in a copy. It is kept in .venv until the code or the test's file changes."""
    store, marks = ROOT / ".venv/mutants", "not slow and not all" if quick else "not all"
    store.mkdir(exist_ok=True)
    code = b"".join(path.read_bytes() for path in targets())
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("test_*.py"))]
    keys = {file: hashlib.sha256(code + file.read_bytes() + f"{file}{marks}".encode()).hexdigest() for file in files}
    missing = [str(file.relative_to(ROOT)) for file, key in keys.items() if not (store / key).exists()]
    for first in range(0, len(missing), AT_ONCE):
        some = missing[first : first + AT_ONCE]
        noted = _run_noting(place, some, marks)
        for name in some:
            of_file = {test: ran for test, ran in noted.items() if test.startswith(f"{name}::")}
            (store / keys[ROOT / name]).write_text(json.dumps(of_file))
        print(f"{first + len(some)} of {len(missing)} files noted, {len(noted)} tests", file=sys.stderr, flush=True)
    return {test: ran for key in keys.values() for test, ran in json.loads((store / key).read_text()).items()}


# --- the mutants ---


class Mutant(NamedTuple):
    """One change: in a file, the bytes between two offsets become another text."""

    file: str
    line: int
    start: int
    end: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.before} -> {self.after}"


def targets() -> list[Path]:
    """Return the files of the path to power, and those of the verdict."""
    return sorted({*files_to_power(), *(ROOT / "agents/pve/forensics").glob("verdict*.py")})


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yield every mutant of a file."""
    data, starts = path.read_bytes(), [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in _code(ast.parse(data)):
        changed = _change(node)
        if changed is not None:
            first = starts[node.lineno - 1] + node.col_offset
            last = starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)
            after = f"({ast.unparse(changed)})" if isinstance(node, ast.expr) else ast.unparse(changed)
            before = " ".join(data[first:last].decode().split())
            yield Mutant(str(path.relative_to(ROOT)), node.lineno, first, last, before, after)


def _code(node: ast.AST) -> Iterator[ast.expr | ast.stmt]:
    """Yield the statements and expressions below a node that run, without annotations and without parts of texts."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.JoinedStr) or name in ("annotation", "returns", "bases", "decorator_list"):
                continue
            if isinstance(child, ast.expr | ast.stmt):
                yield child
            if isinstance(child, ast.AST):
                yield from _code(child)


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


# --- the tries ---


def copy_checkout(place: Path) -> None:
    """Copy the checkout, with a link that makes the copy the package."""
    shutil.copytree(ROOT, place, symlinks=True, ignore=shutil.ignore_patterns(".*", "__pycache__"), dirs_exist_ok=True)
    (place / "package").mkdir()
    (place / "package/breakglass").symlink_to(place / "handler")


def _pytest(place: Path, *arguments: str, **environment: str) -> int:
    """Run pytest in a copy; return its exit code, or 1 if it took too long."""
    paths = {"PYTHONPATH": f"{place}/package:{place}/tests/measured", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    null = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=place, env=os.environ | paths | environment, stdout=null, stderr=null) as tests:
        try:
            return tests.wait(900)
        except subprocess.TimeoutExpired:  # a mutant that loops; pytest ends what its tests have started
            tests.terminate()
            return 1


def fate(place: Path, mutant: Mutant, covering: list[tuple[float, str]]) -> str:
    """Try a mutant in a copy, and return what became of it."""
    ends = list(accumulate(seconds for seconds, _ in sorted(covering)))
    chosen = [test for (_, test), end in zip(sorted(covering), ends, strict=True) if end <= max(TRY_SECONDS, ends[0])]
    file = place / mutant.file
    sound = file.read_bytes()
    file.write_bytes(sound[: mutant.start] + mutant.after.encode() + sound[mutant.end :])
    code = _pytest(place, "-x", *chosen)
    file.write_bytes(sound)
    assert code in (0, 1, 2), f"pytest could not run the tests: {code}"
    return "killed" if code else "survived" if len(chosen) == len(covering) else "survived, not all tests ran"


def main(arguments: list[str]) -> int:
    """Try a sample of the mutants, or a piece of it; print the fate of each, and the counts."""
    parser = argparse.ArgumentParser(prog="./dev mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1, help="picks the sample")
    parser.add_argument("--count", type=int, default=300, help="of mutants in the sample")
    parser.add_argument("--piece", default="1/1", metavar="K/N", help="try only the K-th of N parts")
    parser.add_argument("--quick", action="store_true", help="only with the tests of ./dev test --quick")
    chosen = parser.parse_args(arguments)
    piece, pieces = map(int, chosen.piece.split("/"))
    every = [mutant for path in targets() for mutant in mutants_of(path)]
    sample = random.Random(chosen.seed).sample(every, min(chosen.count, len(every)))[piece - 1 :: pieces]
    covering, counts = defaultdict[str, list[tuple[float, str]]](list), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="bg", ignore_cleanup_errors=True) as directory:
        copy_checkout(Path(directory))
        for test, (seconds, lines) in note_lines(Path(directory), chosen.quick).items():
            for line in lines:
                covering[line].append((seconds, test))
        for mutant in sample:
            found = covering[f"{mutant.file}:{mutant.line}"]
            end = fate(Path(directory), mutant, found) if found else "no test runs it"
            counts[end] += 1
            print(f"{end}: {mutant}", flush=True)
    print(f"{len(every)} mutants, {len(sample)} of them by seed {chosen.seed}: {dict(counts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
