"""Reads the commands of the documents, so that a test runs exactly what a document says.

tests/deploy/test_commands.py finds a block that no test runs.
"""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
SHELLS = ("sh", "bash", "console")
PROGRAMS = ("breakglass call", "ssh", "qm", "cat", "tr", "kill", "ha-manager")
FENCED = re.DOTALL | re.MULTILINE


class Block(NamedTuple):
    """A fenced block: the heading that it stands under, its language, its text, and its line in the document."""

    heading: str
    language: str
    text: str
    line: int

    @property
    def commands(self) -> str:
        """The block as a script. Of a console session, only the text after the prompts."""
        if self.language not in SHELLS:
            return ""
        if self.language != "console":
            return self.text
        typed = re.findall(r"^[$#] (.*\n)", self.text, re.MULTILINE)
        return "".join(typed)


def documents() -> list[str]:
    """Return the names of the documents that tell a person what to type."""
    found = [*ROOT.glob("[A-Z]*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def read_blocks(document: str) -> list[Block]:
    """Return the fenced blocks of a document, in their order."""
    blocks = []
    heading, fence, start = "", "", 0
    body: list[str] = []
    for number, line in enumerate((ROOT / document).read_text(encoding="utf-8").splitlines(), 1):
        opened = re.match(r"( *)```(\w*)", line)
        if fence:
            indent, language = fence.split("`")
            if opened:
                blocks.append(Block(heading, language, "".join(body), start))
                fence = ""
            else:
                body.append(f"{line.removeprefix(indent)}\n")
        elif opened:
            fence, start, body = f"{opened[1]}`{opened[2]}", number, []
        elif title := re.match(r"#+ (.+)", line):
            heading = title[1]
    return blocks


def sections(document: str) -> dict[str, list[str]]:
    """Return the commands of a document by the headings that they stand under, in their order."""
    found: dict[str, list[str]] = {}
    for block in read_blocks(document):
        if block.commands:
            found.setdefault(block.heading, []).append(block.commands)
    return found


def commands(document: str, heading: str) -> list[str]:
    """Return the scripts under a heading, one for each block.

    A test that calls this runs all of them. It unpacks the list, so a document with one more block makes it fail.
    """
    return sections(document)[heading]


def inline_commands(document: str, heading: str) -> list[str]:
    """Return the commands that the text under a heading names between backticks, each once, in their order."""
    text = (ROOT / document).read_text(encoding="utf-8").split(f"# {heading}\n", 1)[1]
    prose = re.sub(r"^( *)```.*?^\1```", "", re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0], flags=FENCED)
    spans = re.findall(r"`([^`]+)`", prose.replace("\n", " "))
    return [each for each in dict.fromkeys(spans) if re.match(rf"({'|'.join(PROGRAMS)}) ", each)]


def settings(document: str, heading: str) -> list[str]:
    """Return the blocks under a heading that are no commands. A person writes them into a file."""
    return [block.text for block in read_blocks(document) if block.heading == heading and block.language not in SHELLS]
