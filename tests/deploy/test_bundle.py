"""The host agent as one file: what is copied to a Proxmox host."""

import ast
import builtins
import subprocess
import symtable
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from breakglass.agents.bundle import bundle
from breakglass.agents.pve.words import VERSION

from ..support.sentences import walk

TEXT = bundle()
TREE = ast.parse(TEXT)


def imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    return (node for node in walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def bound(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Yield each name that the top level of a module defines, as often as it does; the same import counts once."""
    origins: set[tuple[str, str]] = set()
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                origins |= {(alias.asname or alias.name, f"{module}.{alias.name}") for alias in names}
            case _:
                stored = (name for name in walk(node) if isinstance(name, ast.Name))
                yield from (name.id for name in stored if isinstance(name.ctx, ast.Store))
    yield from (name for name, _ in origins)


def scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from scopes(child)


# --- what is in it ---


def test_the_bundle_imports_only_the_standard_library() -> None:
    """Nothing has to be installed on the host: each import that is left belongs to the standard library."""
    found = list(imports(TREE))
    assert [ast.unparse(node) for node in found if isinstance(node, ast.ImportFrom) and node.level] == []
    modules = {alias.name for node in found if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in found if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in modules} <= sys.stdlib_module_names
    assert "os" in modules


def test_each_name_is_defined_once() -> None:
    """No two modules define the same name, and each one that is used is defined, although the imports are gone."""
    count = Counter(bound(TREE.body))
    assert {name: times for name, times in count.items() if times > 1} == {}
    top = symtable.symtable(TEXT, "breakglass-pve", "exec")
    used = {name for scope in scopes(top) for name in globals_of(scope)}
    assert "parse_line" in used
    assert used - {*count, *dir(builtins), "__file__"} == set()


def globals_of(scope: symtable.SymbolTable) -> Iterator[str]:
    return (symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global() and symbol.is_referenced())


# --- it runs ---


def test_the_bundle_runs_alone(tmp_path: Path) -> None:
    """The file runs without any other file of Breakglass, isolated, and prints its version."""
    file = tmp_path / "breakglass-pve"
    file.write_text(TEXT, encoding="utf-8")
    command = [sys.executable, "-IS", "-W", "error", str(file), "--version"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{VERSION}\n", "")
    assert TEXT.startswith("#!/usr/bin/python3 -IS\n")


def test_an_old_python_is_named(tmp_path: Path) -> None:
    """The file can be compiled by the Python of Debian 10 and later, and says what it needs before it imports more."""
    ast.parse(TEXT, feature_version=(3, 8))
    file = tmp_path / "breakglass-pve"
    file.write_text(TEXT, encoding="utf-8")
    old = "import sys; sys.version_info, sys.version = (3, 9, 2), '3.9.2 (default)'; exec(open(sys.argv[1]).read())"
    ran = subprocess.run([sys.executable, "-c", old, str(file)], capture_output=True, text=True, check=False)
    [said] = ran.stderr.splitlines()
    assert (ran.returncode, "needs Python 3.11" in said, "3.9.2" in said) == (1, True, True)
