"""The prose of this project: documents, messages, docstrings and comments, as paragraphs without their code.

`python -m tests.support.sentences SEED` draws 100 sentences, none of them from tests, for a person to judge.
"""

import ast
import random
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
TOPS = ("handler", "agents", "tests", "static_site", "deploy", "docs")
NO_PROSE = ("data", "transcripts", "__pycache__", "cli.md", "glossary.md", "test_sentences.py")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# a comment, which is kept, or a string of Python
_STRING = re.compile(
    r"(#[^\n]*)|\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'", re.DOTALL
)
CODE = "`…`"  # replaces a name, a path or a command


class Passage(NamedTuple):
    """A paragraph, with its file, the line where it begins, and its kind."""

    path: Path
    line: int
    kind: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def read_files() -> list[Path]:
    """Return each file that has prose of ours."""
    found = [path for top in TOPS for path in sorted((ROOT / top).rglob("*.*"))] + sorted(ROOT.glob("*.md"))
    found = [path for path in found if not any(part in NO_PROSE for part in path.relative_to(ROOT).parts)]
    return [path for path in found if path.suffix in _READERS] + [ROOT / "dev"]


@cache
def read_passages() -> tuple[Passage, ...]:
    """Return every passage of every file."""
    found = []
    for path in read_files():
        for line, kind, text in _READERS.get(path.suffix, _of_shell)(path.read_text(encoding="utf-8")):
            words = " ".join(text.split())
            if len(re.findall(r"[A-Za-z]{2,}", words)) > 2:
                found.append(Passage(path, line, kind, words))
    return tuple(found)


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a passage that have at least four words."""
    found = re.split(r"(?<=[.!?])[\"”)]?\s+(?=[A-Z`\"“*(])", text)
    return [sentence for sentence in found if len(re.findall(r"[A-Za-z]{2,}", sentence)) > 3]


# --- one reader for each kind of file: line, kind, text ---


def _of_markdown(text: str) -> Iterator[tuple[int, str, str]]:
    text = re.sub(r"^( *)```.*?^\1```", lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`\n]+`", CODE, re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text))
    begun, lines = 1, list[str]()
    for number, line in enumerate([*text.splitlines(), ""], 1):
        is_row = line.lstrip().startswith("|")
        if lines and (not line.strip() or is_row or re.match(r"\s*([-*]|\d+\.) |#", line)):
            yield begun, "document", " ".join(lines)
            lines = []
        if is_row:
            yield from ((number, "document", cell) for cell in line.strip().strip("|").split(" | "))
        elif line.strip() and not line.startswith("#"):
            begun = begun if lines else number
            lines.append(re.sub(r"^\s*([-*]|\d+\.) ", "", line))


def walk(node: ast.AST) -> list[ast.AST]:
    """Return a node and all below it, as `ast.walk` does in three times the time."""
    found = [node]
    for each in found:
        for value in vars(each).values():
            if isinstance(value, list):
                found += [one for one in value if isinstance(one, ast.AST)]
            elif isinstance(value, ast.AST):
                found.append(value)
    return found


def _of_python(text: str) -> Iterator[tuple[int, str, str]]:
    nodes = walk(ast.parse(text))
    docstrings = {
        id(node.body[0].value)
        for node in nodes
        if isinstance(node, DOCUMENTED) and node.body and isinstance(node.body[0], ast.Expr)
    }
    inside = {id(value) for node in nodes if isinstance(node, ast.JoinedStr) for value in node.values}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            words = [str(value.value) if isinstance(value, ast.Constant) else "…" for value in node.values]
            yield node.lineno, "message", "".join(words)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            is_docstring = id(node) in docstrings
            for part in re.split(r"\n\s*\n|\n(?=\s*\w+: )", node.value):
                yield node.lineno, "docstring" if is_docstring else "message", re.sub(r"`[^`\n]+`", CODE, part)
    yield from _comments(text, r"#.*")


def _comments(text: str, mark: str) -> Iterator[tuple[int, str, str]]:
    """Yield the comments of a program. Those of consecutive lines are one."""
    if mark == "#.*":  # a `#` in a string begins no comment; blank the strings, but keep their lines
        text = _STRING.sub(lambda match: match[1] or re.sub(r"[^\n]", "_", match[0]), text)
    found = [
        (number, line, match[0]) for number, line in enumerate(text.splitlines(), 1) if (match := re.search(mark, line))
    ]
    begun, last, lines = 0, 0, list[str]()
    for number, line, comment in [*found, (0, "", "")]:
        stands_alone = line.lstrip().startswith(comment[:2] or "#")
        if lines and not (stands_alone and number == last + 1):
            yield begun, "comment", " ".join(lines)
            lines = []
        begun, last = begun if lines else number, number if stands_alone else -1
        words = re.sub(r"^\s*(#+!?|//|/?\*+/?)|\*/\s*$|@\w+ \{[^}]*\}|type: ignore.*|noqa.*|shellcheck .*", "", comment)
        lines.append(re.sub(r"`[^`\n]+`", CODE, words).strip(" -"))


def _of_script(text: str) -> Iterator[tuple[int, str, str]]:
    yield from _comments(text, r"(?<![:'\"`\w])//.*|^\s*/?\*.*")
    for number, line in enumerate(text.splitlines(), 1):
        if not re.match(r"\s*(//|/?\*)", line):
            for literal in re.findall(r"\"((?:[^\"\\]|\\.)+)\"|`((?:[^`\\]|\\.)+)`", line):
                yield number, "message", re.sub(r"\$\{[^}]*\}", "…", literal[0] or literal[1])


def _of_shell(text: str) -> Iterator[tuple[int, str, str]]:
    yield from _comments(text, r"(?<!\S)#(?!!)\s.*")
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.search(r"\b(?:say|die) \"([^\"]+)\"", line):
            yield number, "message", match[1]


def _of_page(text: str) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        yield number, "message", re.sub(r"<[^>]*>", " ", line)


_READERS = {".md": _of_markdown, ".py": _of_python, ".js": _of_script, ".sh": _of_shell, ".html": _of_page}


if __name__ == "__main__":
    read = [each for each in read_passages() if "tests" not in each.path.relative_to(ROOT).parts]
    sentences = sorted({(sentence, each.place) for each in read for sentence in split_sentences(each.text)})
    for sentence, place in random.Random(int(sys.argv[1])).sample(sentences, 100):
        print(f"{place}\n    {sentence}")
