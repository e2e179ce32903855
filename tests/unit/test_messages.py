"""Documents and packages that messages name exist even if only the wheel is installed, and are ours."""

import ast
import re
from functools import cache
from pathlib import Path

from breakglass.cli.docs import purpose, read_documents

from ..support.rows import each_row
from ..support.sentences import walk

ROOT = Path(__file__).parent.parent.parent
CODE = [path for folder in ("handler", "agents") for path in sorted((ROOT / folder).rglob("*.py"))]
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
CHOICE = re.compile(r"(?:^|; )or \w")
SEEN = re.compile(r"breakglass docs ([\w-]+)")


@cache
def messages(path: Path) -> list[str]:
    """Return each text of a module that is no docstring."""
    nodes = walk(ast.parse(path.read_text("utf-8")))
    docstrings = {
        id(node.body[0].value)
        for node in nodes
        if isinstance(node, DOCUMENTED) and node.body and isinstance(node.body[0], ast.Expr)
    }
    texts = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [node.value for node in texts if isinstance(node.value, str)]


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


@each_row("name", read_documents())
def test_a_document_says_what_it_is_for(name: str) -> None:
    """Each document begins with one phrase that says what the page is, which `breakglass docs` lists."""
    assert re.fullmatch(r"[A-Z][^\[\n]{20,140}", purpose(read_documents()[name]))
