"""The mechanical half of the rule for sentences: plain words, whole sentences, and one thing to do.

The other half needs a reader: `./dev words SEED` draws sentences for one.
"""

import re
from collections.abc import Iterator

import pytest

from breakglass.cli.docs import purpose, read_documents

from ..support.documents import ROOT
from ..support.rows import read_rows
from ..support.sentences import read_passages

pytestmark = pytest.mark.slow  # reading all texts takes seconds

MOST_WORDS = 42_000
NOT_COUNTED = ("CHANGELOG.md", "docs/cli.md")

PRONOUNS = "it|they|this|that|these|he|she|we|you|there"
RULES: dict[str, str] = read_rows("plain_words.yaml")["rules"]
# a label and a list may have a colon, but no clause that belongs to the one before it
COLON = re.compile(rf"[\w`…\"”)](?P<colon>: )(?:(?:{PRONOUNS})\b|(?:the|a|an)\b(?P<rest>[^.!?]*))")


def find_faults(text: str) -> Iterator[str]:
    yield from (rule for rule, form in RULES.items() if re.search(form, text))
    for match in COLON.finditer(text):
        before = re.split(r"(?<=[.!?;])\s|[*|(]", text[: match.start("colon")])[-1]
        is_list = match["rest"] is not None and re.search(r",|;|\band\b|\bor\b", match["rest"])
        if len(before.split()) > 4 and not is_list:
            yield "a colon: link the clauses with because, so, if or but"


def test_sentences_are_plain() -> None:
    """No document, message, docstring or comment has a form that must be read twice."""
    tests = f"{ROOT}/tests/"  # which send and compare other texts
    read = [each for each in read_passages() if each.kind != "message" or not str(each.path).startswith(tests)]
    assert len(read) > 10_000
    faults = [(each, find_faults(each.text)) for each in read if each.path.name != "CHANGELOG.md"]
    assert [f"{each.place}: {fault}: {each.text}" for each, found in faults for fault in found] == []


def test_a_document_says_what_it_is_for() -> None:
    """Each begins with one phrase, which `breakglass docs` lists. All together have at most so many words."""
    for name, text in read_documents().items():
        assert re.fullmatch(r"[A-Z][^\[\n]{20,140}", purpose(text)), name
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
    counts = {name: len(path.read_text("utf-8").split()) for path in found if (name := str(path.relative_to(ROOT)))}
    assert sum(count for name, count in counts.items() if name not in NOT_COUNTED) <= MOST_WORDS, counts
