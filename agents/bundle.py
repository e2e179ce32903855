"""Make `breakglass-pve`: the modules of `agents/pve/` as one readable file with the standard library alone.

The modules are joined in the order of their imports; the imports between them fall away. Two modules that define the
same top-level name would silently become one, so that is refused.
"""

import ast
from importlib.resources import files

SHEBANG = "#!/usr/bin/python3 -IS"
ROOT = "main"


def bundle() -> str:
    """Return the text of the one file; raises ValueError when two modules define the same name."""
    order: list[str] = []
    _visit(ROOT, order)
    parts = {name: _split(_source(name)) for name in order}
    _refuse_collisions(parts)
    imports = sorted({line for part in parts.values() for line in part.imports})
    bodies = [f"# ==== agents/pve/{name}.py ====\n\n{part.body}" for name, part in parts.items()]
    notice = '"""The breakglass host agent. Made by `breakglass host bundle`; change agents/pve/ instead."""'
    return "\n".join([SHEBANG, notice, "", *imports, "", "", "\n\n".join(bodies)])


class _Part:
    def __init__(self, imports: list[str], body: str, names: set[str]) -> None:
        self.imports, self.body, self.names = imports, body, names


def _source(name: str) -> str:
    return (files("agents") / "pve" / f"{name}.py").read_text(encoding="utf-8")


def _visit(name: str, order: list[str]) -> None:
    for node in ast.parse(_source(name)).body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module and node.module not in order:
            _visit(node.module, order)
    order.append(name)


def _split(source: str) -> _Part:
    lines = source.splitlines()
    imports: list[str] = []
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            if not (isinstance(node, ast.ImportFrom) and node.level):
                imports.append(ast.unparse(node))
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
        names |= _defined(node)
    return _Part(imports, "\n".join(lines).strip() + "\n", names)


def _defined(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
    return set()


def _refuse_collisions(parts: dict[str, _Part]) -> None:
    owner: dict[str, str] = {}
    for module, part in parts.items():
        for name in part.names:
            if name in owner:
                raise ValueError(f'"{name}" is defined in both {owner[name]} and {module}')
            owner[name] = module
