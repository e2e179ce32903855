"""Documents and packages that messages name exist even if only the wheel is installed, and are ours."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from breakglass.cli.docs import purpose, read_documents

from ..support.rows import each_row

ROOT = Path(__file__).parent.parent.parent
CODE = [path for folder in ("handler", "agents") for path in sorted((ROOT / folder).rglob("*.py"))]
TEXTS = (".md", ".sh", ".txt", ".yml", ".html", ".js", ".toml", ".service", ".conf", "")
FOLDERS = ("handler", "agents", "static_site", "docs", "deploy")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
CHOICE = re.compile(r"(?:^|; )or \w")
SEEN = re.compile(r"breakglass docs ([\w-]+)")
# an installing command, up to its end in the shell; continued lines are joined before
VALUED = ("-r", "-c", "-d", "--dest", "--find-links", "--python-version", "--platform", "--abi", "--implementation")
INSTALLING = re.compile(
    r"\b(?:(?:pip3?|pipx) (?:install|download|run)|uv (?:pip install|tool install|tool run|add)|uvx)\b([^\n`|;&()\"']*)"
)


def messages(path: Path) -> Iterator[str]:
    """Yield each text of a module that is no docstring."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    docstrings = {
        id(node.body[0].value)
        for node in nodes
        if isinstance(node, DOCUMENTED) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def installed_names(text: str) -> set[str]:
    """Return the packages that a text's commands install from an index, without files, options and locked lists."""
    names: set[str] = set()
    for found in INSTALLING.finditer(text.replace("\\\n", " ")):
        words = found[1].split(" #")[0].split()
        if "--no-index" in words or not words:
            continue
        values = {word for option, word in itertools.pairwise(words) if option in VALUED}
        names |= {w for w in words if w[0] not in "-." and w not in values and not w.endswith(".whl") and "/" not in w}
    return names


def test_messages_name_documents_by_the_command_that_prints_them() -> None:
    """No message says docs/NAME.md, which is missing if only the wheel is installed. Each named document exists."""
    messages_of_code = [(path, text) for path in CODE for text in messages(path)]
    assert [
        f"{path}: {text}" for path, text in messages_of_code if re.search(r"[\w-]+\.md\b", text) and "docs/" in text
    ] == []
    named = {name for _, text in messages_of_code for name in SEEN.findall(text)} - {"CODE"}
    assert {"runbook", "api", "alerts"} <= named <= set(read_documents())


def test_a_message_has_one_thing_to_do() -> None:
    """A tired person needs no choice, so each message says what to do first."""
    assert [f"{path}: {text}" for path in CODE for text in messages(path) if CHOICE.search(text)] == []


def test_no_text_installs_a_package_that_is_not_ours() -> None:
    """No message, document or file installs our package by its name from an index, because it is on none."""
    paths = [path for name in FOLDERS for path in (ROOT / name).rglob("*") if path.suffix in (*TEXTS, ".py")]
    paths = [path for path in (*paths, *ROOT.glob("*.md"), ROOT / "Procfile") if path.is_file()]
    assert len(paths) > 200
    found = {str(path.relative_to(ROOT)): installed_names(path.read_text("utf-8")) for path in paths}
    assert {path: names for path, names in found.items() if names} == {}
    assert [str(path) for path in paths if "breakglass[" in path.read_text("utf-8")] == []


@each_row(
    ("text", "names"),
    [
        ("(pip install breakglass[real-cli])", {"breakglass[real-cli]"}),
        ("pip install --force-reinstall breakglass", {"breakglass"}),
        ("pipx install breakglass", {"breakglass"}),
        ("uv tool install breakglass", {"breakglass"}),
        ("pip install --require-hashes \\\n    -r requirements.txt", set()),
        ("pip install --no-deps ./breakglass-9.9.9-py3-none-any.whl", set()),
        ("pip install --no-index --find-links wheels breakglass", set()),
        ("pip download --python-version 3.13 -d wheels -r requirements.txt", set()),
    ],
)
def test_an_index_is_recognised(text: str, names: set[str]) -> None:
    """A package's name is resolved by an index. A file, a locked list and a directory of wheels are not."""
    assert installed_names(text) == names


@each_row("name", read_documents())
def test_a_document_says_what_it_is_for(name: str) -> None:
    """Each document begins with one phrase that says what the page is, which `breakglass docs` lists."""
    assert re.fullmatch(r"[A-Z][^\[\n]{20,140}", purpose(read_documents()[name]))
