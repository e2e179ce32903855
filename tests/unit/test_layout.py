"""The rules of the layout that import-linter and ruff can't check. They are read from the sources."""

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from ..support.rows import each_row
from ..support.sentences import walk

ROOT = Path(__file__).parent.parent.parent
HANDLER = ROOT / "handler"
AGENT = ROOT / "agents/pve"
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
MOST_LINES_LOADED = 3_327  # by the handler's modules that serve a verb


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), path.name)


@cache
def modules(top: Path) -> dict[str, Path]:
    """Return each Python file under a folder by its path from there."""
    return {str(path.relative_to(top)): path for path in sorted(top.rglob("*.py"))}


@cache
def imported(node: ast.AST) -> list[str]:
    """Return the dotted names of all imports under a node. Relative ones begin with a dot."""
    found: list[str] = []
    for child in walk(node):
        if isinstance(child, ast.Import):
            found += [alias.name for alias in child.names]
        if isinstance(child, ast.ImportFrom):
            module = "." * child.level + (child.module or "")
            found += [f"{module}.{alias.name}" if child.module else module + alias.name for alias in child.names]
    return found


def folder_of(top: Path, package: str) -> Path:
    """Return the folder that has a package which a file under `top` imports."""
    return ROOT if top == HANDLER and package == "agents" else top


@cache
def imports_of_ours(top: Path, path: Path) -> set[str]:
    """Return the modules and packages under `top` that a file there imports, as paths without a suffix.

    Modules of `agents`, which the handler imports as its own package, begin with `agents/`.
    """
    here = path.relative_to(top).parent.parts
    found = set()
    for name in imported(tree(path)):
        dots = len(name) - len(name.lstrip("."))
        if not dots:
            continue
        if dots - 1 > len(here):
            found.add("outside")
            continue
        parts = [*here[: len(here) - dots + 1], *name.lstrip(".").split(".")]
        home = folder_of(top, parts[0])
        while parts and not (home.joinpath(*parts).is_dir() or home.joinpath(*parts).with_suffix(".py").exists()):
            parts.pop()  # the names of functions and classes
        found.add("/".join(parts))
    return found


def names(node: ast.AST) -> set[str]:
    return {child.id for child in walk(node) if isinstance(child, ast.Name)}


# --- 1: imports, besides the rules of import-linter and ruff in pyproject.toml ---


@cache
def pyproject() -> dict[str, Any]:
    tools: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    return tools


def packages(top: Path, name: str) -> set[str]:
    """Return the dotted name of a folder, and of each folder below it that has Python files."""
    folders = {path.parent.relative_to(top) for path in top.rglob("*.py")} | {Path()}
    return {".".join([name, *folder.parts]) for folder in folders}


def test_the_wheel_has_every_package() -> None:
    """The list of packages in pyproject.toml has every folder, because a missing one would not be in the wheel."""
    setuptools = pyproject()["setuptools"]
    there = {name for package, folder in setuptools["package-dir"].items() for name in packages(ROOT / folder, package)}
    assert sorted(setuptools["packages"]) == sorted(there)


# --- 2: the table of verbs ---


def production() -> dict[str, Path]:
    """Return the handler's files without the demo's."""
    return {name: path for name, path in modules(HANDLER).items() if not name.startswith("demo/")}


def test_no_module_imports_a_private_name() -> None:
    """Any new version of a package, or of Python, may remove a private name."""
    found = {
        name: [module for module in imported(tree(path)) if module[0] != "."] for name, path in production().items()
    }
    private = {name: [m for m in modules if re.search(r"\._(?!_)|^_(?!_)", m)] for name, modules in found.items()}
    assert {name: modules for name, modules in private.items() if modules} == {}


def test_tests_send_signals_in_one_place() -> None:
    """A look-up without a result returns 0, for which kill(2) would signal the whole run. One module checks this."""
    paths = [path for path in (ROOT / "tests").rglob("*.py") if "os.kill" in path.read_text("utf-8")]
    calls = {
        f"{path.relative_to(ROOT)}: {ast.unparse(node)}"
        for path in paths
        for node in walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.kill", "os.killpg")
    }
    assert calls == {
        "tests/support/signals.py: os.kill(pid, number)",
        "tests/support/signals.py: os.killpg(leader, number)",
        "tests/agent/test_together.py: os.kill(os.getpid(), signal.SIGKILL)",
        "tests/support/ha_services.py: os.kill(pid, signal.SIGTERM)",  # its own program
        "tests/support/systemctl.py: os.kill(pid, number)",  # its own program, in its own Debian
    }


# --- the path to power ---

NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def lines_of_code(text: str) -> int:
    """Return how many lines have code: no blank lines, comments and docstrings."""
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type not in NO_CODE]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in walk(ast.parse(text)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def files_to_power() -> list[Path]:
    found = [(ROOT / name).rglob("*.py") if name.endswith("/") else [ROOT / name] for name in PATH_TO_POWER]
    return [path for paths in found for path in paths]


def test_the_path_to_power_is_short() -> None:
    """The code that can change a VM's state can be read in a day. New features belong outside these files."""
    counts = {str(path.relative_to(ROOT)): lines_of_code(path.read_text("utf-8")) for path in files_to_power()}
    assert min(len(list((ROOT / name).glob("*.py"))) for name in PATH_TO_POWER if name.endswith("/")) > 0
    assert sum(counts.values()) < MOST_LINES_TO_POWER, counts


def test_the_path_to_power_is_whole() -> None:
    """A file on the path imports only files of the path, and the known ones beside it."""
    beyond = set()
    for path in files_to_power():
        top = HANDLER if path.is_relative_to(HANDLER) else AGENT
        targets = imports_of_ours(top, path) - {"outside", ""}
        found = {str((folder_of(top, name.split("/")[0]) / name).relative_to(ROOT)) for name in targets}
        beyond |= {f"{name}.py" if (ROOT / f"{name}.py").exists() else f"{name}/" for name in found}
    assert {name for name in beyond if not name.startswith((*PATH_TO_POWER, *BESIDE_THE_PATH))} == set()
    assert "agents/bundle.py" in beyond  # so that the handler's imports of `agents` are found


def loaded_by(*names: str) -> set[str]:
    """Return all modules of the handler that these modules import, directly or through others."""
    found, left = set(), list(names)
    while left:
        name = left.pop()
        package = HANDLER / name
        path = package / "__init__.py" if package.is_dir() else package.with_suffix(".py")
        if name not in found and path.is_relative_to(HANDLER) and path.exists():
            found.add(name)
            left += imports_of_ours(HANDLER, path) - {"outside", ""}
    return found


def test_what_serves_a_verb_loads_no_chat() -> None:
    """A verb is served by modules that load neither chat nor claude, and that are few."""
    names = loaded_by("web/pve", "web/gate", "service")
    assert {name.split("/")[0] for name in names}.isdisjoint({"chat", "claude", "cli", "demo", "doctor"})
    assert "proxmox/link" in names
    counts = {
        name: lines_of_code(path.read_text("utf-8")) for name in names if (path := HANDLER / f"{name}.py").exists()
    }
    assert sum(counts.values()) <= MOST_LINES_LOADED, counts


def test_the_chain_can_change_no_power() -> None:
    """What writes the chain runs in the middle of a verb, so it imports nothing that runs `qm` or speaks to QEMU."""
    harmless = {"host/bounded", "host/cluster", "host/paths"}
    harmless |= {f"jobs/{name}" for name in ("archive", "chain_file", "job", "mutex", "result", "store")}
    for name in ("chain", "chain_file", "verify"):
        assert imports_of_ours(AGENT, AGENT / f"jobs/{name}.py") - harmless == set(), name


def test_the_path_to_power_is_documented() -> None:
    """docs/architecture.md names the same files, and the same bound."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    section = text.partition("## The path to power\n")[2].partition("\n## ")[0]
    assert re.findall(r"`((?:handler|agents)/[\w/.]+)`", section) == list(PATH_TO_POWER)
    assert f"fewer than {MOST_LINES_TO_POWER:,} lines" in section


def top_names(top: Path) -> set[str]:
    """Return the Python files right under a folder, and its folders with a slash, but not those of compiled files."""
    folders = {f"{path.name}/" for path in top.iterdir() if any(p.suffix != ".pyc" for p in path.rglob("*.*"))}
    return folders | {path.name for path in top.glob("*.py")} - {"__init__.py", "__main__.py"}


@each_row("name", ["handler", "agents/pve", "tests", "static_site"])
def test_the_architecture_has_a_line_for_each_package(name: str) -> None:
    """The table of docs/architecture.md has each folder and file in its first column, and no other."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = re.search(rf"^\| `{name}/`.*\n\|---\|---\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table
    first = " ".join(line.split("|")[1] for line in table[1].splitlines())
    assert sorted(re.findall(r"`([\w./]+)`", first)) == sorted(top_names(ROOT / name) - {"conftest.py"})


def test_the_recipes_name_what_there_is() -> None:
    """Each name and file in docs/recipes.md exists in the code, so that a recipe can't become stale."""
    text = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    paths = [path for top in ("handler", "agents", "tests", "static_site") for path in (ROOT / top).rglob("*.*")]
    code = "".join(path.read_text("utf-8") for path in paths if path.suffix in (".py", ".html", ".txt"))
    known = set(re.findall(r"\w+", code)) | {path.name for path in paths}
    names = {name for name in re.findall(r"`([A-Za-z_]+(?:\.\w+)?)`", text) if name != "SOURCE.json"}
    assert {name for name in names if name not in known and not (ROOT / name).is_file()} == set()


# --- plain words ---

ODD_WORDS = (
    *("whoever", "whomever", "nobody", "somebody", "anybody", "everybody", "aloud", "heed", "condemn", "lest"),
    *("road", "kin", "amiss", "whence", "hitherto"),
)
ODD = re.compile(rf"\b({'|'.join(ODD_WORDS)})(?:s|ed|'s)?\b", re.IGNORECASE)
ACCOUNT = re.compile(r"\"nobody\"|=nobody|the user nobody")
PROSE = (".py", ".sh", ".md", ".txt", ".yml", ".js", ".css", ".html")
NO_PROSE = ("glossary.md", "test_layout.py", "data", "transcripts")


def has_prose(path: Path) -> bool:
    """Tell whether a file is code, a template or a document, but not recorded, and not a list of these words."""
    return path.suffix in PROSE and not any(part in NO_PROSE for part in path.relative_to(ROOT).parts)


def test_words_are_plain() -> None:
    """No name, docstring, comment, message or document has a word that hides who does what: docs/glossary.md."""
    tops = [ROOT / name for name in ("handler", "agents", "docs", "static_site", "tests", "deploy")]
    files = [path for top in tops for path in top.rglob("*.*") if has_prose(path)] + [*ROOT.glob("*.md"), ROOT / "dev"]
    assert len(files) > 600
    lines = [(path, ACCOUNT.sub("", line)) for path in files for line in path.read_text("utf-8").splitlines()]
    assert [f"{path.relative_to(ROOT)}: {line.strip()}" for path, line in lines if ODD.search(line)] == []


def class_names(files: Iterable[Path]) -> list[str]:
    return [node.name for path in files for node in walk(tree(path)) if isinstance(node, ast.ClassDef)]


def test_a_name_of_a_class_means_one_thing() -> None:
    """Two classes of the handler never share a name, so that a search for it finds one. The demo plays Proxmox."""
    found = class_names(production().values())
    assert {name for name in found if found.count(name) > 1} == set()
