"""Make `breakglass-pve`: the modules of `agents/pve/` as one readable file that needs only the standard library.

The modules are joined in the order of their imports, without the imports between them. Two modules that define the
same top-level name are refused, because the file could keep only one of them.
"""

import ast
import threading
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

SHEBANG = "#!/usr/bin/python3 -IS"
# This stands before the other imports, because an older Python would fail at one of them.
GATE = """\
import sys

if sys.version_info < (3, 11):
    sys.exit("breakglass-pve needs Python 3.11, as in Proxmox VE 8 and 9, and this is " + sys.version.split()[0])
"""
ROOT = "main"
_ONE_AT_A_TIME = threading.Lock()
_KNOWN: list[str] = []


def bundle() -> str:
    """Return the text of the one file; raise ValueError when two modules define the same name."""
    parts: dict[str, _Part] = {}
    _visit(ROOT, parts)
    _refuse_collisions(parts)
    imports = sorted({line for part in parts.values() for line in part.imports} - {"import sys"})
    bodies = [f"# ==== agents/pve/{name.replace('.', '/')}.py ====\n\n{part.body}" for name, part in parts.items()]
    notice = '"""The breakglass host agent. Made by `breakglass host bundle`; change agents/pve/ instead."""'
    return "\n".join([SHEBANG, notice, "", GATE, *imports, "", "", "\n\n".join(bodies)])


def bundle_digest() -> str:
    """Return the SHA-256 of the one file, by which the handler tells whether a host has it."""
    with _ONE_AT_A_TIME:  # in Python 3.11, ast.parse sometimes fails when two threads call it at once
        if not _KNOWN:
            _KNOWN.append(sha256(bundle().encode()).hexdigest())
    return _KNOWN[0]


def known_digest() -> str:
    """Return that digest without reading a file; empty before the first `bundle_digest` has ended."""
    return _KNOWN[0] if _KNOWN else ""


@dataclass(frozen=True)
class _Part:
    """One module, split: its library imports as lines and as names, its other text, and the names that it defines."""

    imports: list[str]
    imported: set[str]
    body: str
    names: set[str]


def _source(name: str) -> str:
    """Return the text of a module such as "power.stop"."""
    return files(__package__).joinpath("pve", f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")


def _visit(name: str, parts: dict[str, _Part]) -> None:
    """Add a module to the parts, after each module that it imports. Parsing is slow, so each is parsed once."""
    source = _source(name)
    module = ast.parse(source)
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and node.level and (imported := _absolute(name, node)) not in parts:
            _visit(imported, parts)
    parts[name] = _split(source, module)


def _absolute(importer: str, node: ast.ImportFrom) -> str:
    """Return which module a relative import names; refuse the import of a whole module, which the file lacks."""
    above = importer.split(".")[: -node.level]
    if node.module is None or len(importer.split(".")) < node.level:
        raise ValueError(f"{importer}, line {node.lineno}: import names from a module, not the module")
    return ".".join([*above, node.module])


def _split(source: str, module: ast.Module) -> _Part:
    lines = source.splitlines()
    imports: list[str] = []
    imported: set[str] = set()
    names: set[str] = set()
    for node in module.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            if not (isinstance(node, ast.ImportFrom) and node.level):
                imports.append(ast.unparse(node))
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
        imported |= _imported(node)
        names |= _defined(node)
    return _Part(imports, imported, "\n".join(lines).strip() + "\n", names)


def _defined(node: ast.stmt) -> set[str]:
    """Return the names that a top-level statement defines, without imports between the modules."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.ImportFrom(level=level) if level:
            return set()
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            found |= _defined(child)
        else:
            found |= {name.id for name in ast.walk(child) if isinstance(name, ast.Name) and _is_stored(name)}
    return found


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _imported(node: ast.stmt) -> set[str]:
    if not isinstance(node, ast.Import | ast.ImportFrom) or getattr(node, "level", False):
        return set()
    return {(alias.asname or alias.name).split(".")[0] for alias in node.names}


def _refuse_collisions(parts: dict[str, _Part]) -> None:
    owner = {name: "an import" for part in parts.values() for name in part.imported}
    for module, part in parts.items():
        for name in part.names:
            if name in owner:
                raise ValueError(f'"{name}" is defined in both {owner[name]} and {module}')
            owner[name] = module
