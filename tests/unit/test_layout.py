"""The rules of the layout that import-linter and ruff can't check: the path to power, and two lists of packages."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
HANDLER = ROOT / "handler"
# The code that can change a VM's state: files, and folders with all of their files.
PATH_TO_POWER = (
    *("handler/web/gate.py", "handler/web/bodies.py", "handler/web/admission.py", "handler/web/pve.py"),
    *("handler/service.py", "handler/base/verbs.py", "handler/base/errors.py", "handler/auth/", "handler/proxmox/"),
    *("agents/pve/main.py", "agents/pve/grammar.py", "agents/pve/words.py", "agents/pve/vm_list.py"),
    *("agents/pve/budget.py", "agents/pve/run_job.py"),
    *("agents/pve/serving/", "agents/pve/power/", "agents/pve/host/"),
    *(f"agents/pve/jobs/{name}.py" for name in ("job", "mutex", "result", "store")),
)
# Other imports of these files. They start and stop no VM by themselves; docs/architecture.md says more.
BESIDE_THE_PATH = (
    "handler/web/client_headers.py",
    "handler/web/replies.py",
    "handler/web/reads.py",
    "handler/web/states.py",
    "handler/web/strangers.py",
    "handler/config/",
    "handler/alerts/",
    "handler/base/",
    "handler/config/other_nodes.py",
    "agents/bundle.py",
    "agents/pve/by_hand/",
    "agents/pve/reading/",
    "agents/pve/forensics/",
    "agents/pve/check/",
    "agents/pve/jobs/aliases.py",
    "agents/pve/jobs/archive.py",
    "agents/pve/jobs/chain.py",
    "agents/pve/jobs/history.py",
    "agents/pve/jobs/proven.py",
)
MOST_LINES_TO_POWER = 4702
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def lines_of_code(text: str) -> int:
    """Return how many lines have code: no blank lines, comments and docstrings."""
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in NO_CODE]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def files_to_power() -> list[Path]:
    found = [sorted((ROOT / name).rglob("*.py")) if name.endswith("/") else [ROOT / name] for name in PATH_TO_POWER]
    assert all(found)
    return [path for paths in found for path in paths]


def imported_files(path: Path) -> Iterator[str]:
    """Yield our files and folders that a file imports, by their paths from the root."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        place = path.parents[node.level - 1]
        if place == HANDLER and (node.module or "").startswith("agents"):
            place = ROOT  # the package has both folders
        place = place.joinpath(*(node.module or "").split("."))
        for name in (place / alias.name for alias in node.names):
            found = name if name.is_dir() or name.with_suffix(".py").exists() else place
            yield str(found.relative_to(ROOT)) + (".py" if found.with_suffix(".py").exists() else "/")


def test_the_path_to_power_is_short() -> None:
    """The code that can change a VM's state can be read in a day. New features belong outside these files."""
    counts = {str(path.relative_to(ROOT)): lines_of_code(path.read_text("utf-8")) for path in files_to_power()}
    assert sum(counts.values()) < MOST_LINES_TO_POWER, counts


def test_the_path_to_power_is_whole() -> None:
    """A file on the path imports only files of the path, and the known ones beside it."""
    beyond = {name for path in files_to_power() for name in imported_files(path)}
    known = (*PATH_TO_POWER, *BESIDE_THE_PATH)
    assert {name for name in beyond if not name.startswith(known) and name != "handler/__init__.py"} == set()
    assert "agents/bundle.py" in beyond  # so that the handler's imports of `agents` are found


def test_the_path_to_power_is_documented() -> None:
    """docs/architecture.md names the same files, and the same bound."""
    section = ARCHITECTURE.partition("## The path to power\n")[2].partition("\n## ")[0]
    assert re.findall(r"`((?:handler|agents)/[\w/.]+)`", section) == list(PATH_TO_POWER)
    assert f"fewer than {MOST_LINES_TO_POWER:,} lines" in section
