"""Make `breakglass-pve`: the modules of `agents/pve/` as one readable file that needs only the standard library.

The modules are joined in the order of their imports, without the imports between them. Imports stand at the beginning
of a line and nowhere else, as ruff demands, so they are found without a parser, which would take half of a handler's
start. tests/deploy/test_bundle.py parses the file, and proves that no two modules define the same name.
"""

import re
from hashlib import sha256
from pathlib import Path

SHEBANG = "#!/usr/bin/python3 -IS"
# This stands before the other imports, because an older Python would fail at one of them.
GATE = """\
import sys

if sys.version_info < (3, 11):
    sys.exit("breakglass-pve needs Python 3.11, as in Proxmox VE 8 and 9, and this is " + sys.version.split()[0])
"""
ROOT = "main"
_MODULES = Path(__file__).parent / "pve"
_IMPORT = re.compile(r"^(?:import [\w., ]+|from ([\w.]+) import (?:\([^)]*\)|[\w, ]+))(?: *#.*)?\n", re.MULTILINE)
_KNOWN: list[str] = []


def bundle() -> str:
    """Return the text of the one file."""
    imports: set[str] = set()
    bodies: dict[str, str] = {}
    _visit(ROOT, imports, bodies)
    parts = [f"# ==== agents/pve/{name.replace('.', '/')}.py ====\n\n{body}\n" for name, body in bodies.items()]
    notice = '"""The breakglass host agent. Made by `breakglass host bundle`; change agents/pve/ instead."""'
    return "\n".join([SHEBANG, notice, "", GATE, *sorted(imports - {"import sys"}), "", "", "\n\n".join(parts)])


def bundle_digest() -> str:
    """Return the SHA-256 of the one file, by which the handler tells whether a host has it."""
    if not _KNOWN:
        _KNOWN.append(sha256(bundle().encode()).hexdigest())
    return _KNOWN[0]


def known_digest() -> str:
    """Return that digest without reading a file; empty before the first `bundle_digest` has ended."""
    return _KNOWN[0] if _KNOWN else ""


def _visit(name: str, imports: set[str], bodies: dict[str, str]) -> None:
    """Add a module such as "power.stop" to the bodies, after each module that it imports."""
    source = (_MODULES / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8")
    for found in _IMPORT.finditer(source):
        if (module := found[1] or "").startswith("."):
            dots = len(module) - len(module.lstrip("."))
            imported = ".".join([*name.split(".")[:-dots], module[dots:]])
            if imported not in bodies:
                _visit(imported, imports, bodies)
        else:
            line = re.sub(r" *#.*|[()]", "", found[0])
            imports.add(" ".join(line.split()).removesuffix(","))
    bodies[name] = _IMPORT.sub(lambda found: "\n" * found[0].count("\n"), source).strip()
