"""The mechanical half of the rule for sentences: plain words, whole sentences, and one thing to do.

The other half needs a reader: `./dev words SEED` draws sentences for one.
"""

import re
from collections.abc import Iterator

import pytest

from breakglass.cli.docs import purpose, read_documents

from ..support.documents import ROOT
from ..support.sentences import Passage, read_passages

pytestmark = pytest.mark.slow  # reading all texts takes seconds

MOST_WORDS = 42_000
NOT_COUNTED = ("CHANGELOG.md", "docs/cli.md")

PRONOUNS = "it|they|this|that|these|he|she|we|you|there"
RULES = {
    "a word that hides who does what: docs/glossary.md": (
        r"(?i)(?<![\"=])(?<!the user )\b(?:whoever|whomever|nobody|somebody|anybody|everybody|aloud|heed|condemn|lest"
        r"|road|kin|amiss|whence|hitherto)(?:s|ed|'s)?\b"
    ),
    "mend: write fix or repair": r"\b[Mm]end(?:s|ed|ing)?\b",
    "goes on: write continues": (
        r"(?<!come and )\b(?:go|goes|going|went|gone) on\b(?! (?:the|a|its|that|this|it)\b| living)"
    ),
    "Afterwards: name the time, or begin with what the page is": r"\bAfterwards\b",
    "also if: write even if": r"\b[Aa]lso (?:if|when|after|while|where)\b",
    "of its own: write its own": r"(?<!told )(?<!place )\bof (?:its|their|his|her) own\b",
    "is root's: name what root has": (
        r"\b(?:is|are|was|were|be|been|isn't|not) (?:[\w`…/-]+ ){0,3}[\w`…/]+'s(?=[.,;)]|: |$)"
    ),
    "off: that is for power; write disabled": (
        r"\b(?:chat|callers?|hosts?|metrics|scripts|authentication|entry|both) (?:is|are|was|were|be) (?:turned )?off\b"
        r"|\bswitch(?:es)? (?:[\w']+ ){0,5}off\b|\bswitched (?:off (?:the|a|its)|[\w']+ off)\b"
    ),
}
# a label and a list may have a colon, but no clause that belongs to the one before it
COLON = re.compile(rf"[\w`…\"”)](?P<colon>: )(?:(?:{PRONOUNS})\b|(?:the|a|an)\b(?P<rest>[^.!?]*))")


def find_faults(text: str) -> Iterator[str]:
    yield from (rule for rule, form in RULES.items() if re.search(form, text))
    for match in COLON.finditer(text):
        before = re.split(r"(?<=[.!?;])\s|[*|(]", text[: match.start("colon")])[-1]
        is_list = match["rest"] is not None and re.search(r",|;|\band\b|\bor\b", match["rest"])
        if len(before.split()) > 4 and not is_list:
            yield "a colon: link the clauses with because, so, if or but"


def is_message(passage: Passage) -> bool:
    return passage.kind == "message" and passage.path.is_relative_to(ROOT / "handler")


def test_sentences_are_plain() -> None:
    """No document, message, docstring or comment has a form that must be read twice."""
    tests = f"{ROOT}/tests/"  # which send and compare other texts
    read = [each for each in read_passages() if each.kind != "message" or not str(each.path).startswith(tests)]
    assert len(read) > 10_000
    faults = [(each, find_faults(each.text)) for each in read if each.path.name != "CHANGELOG.md"]
    assert [f"{each.place}: {fault}: {each.text}" for each, found in faults for fault in found] == []


def test_a_message_has_one_thing_to_do_and_names_what_is_there() -> None:
    """A tired person needs no choice. A document is named by the command that prints it, and each of these exists."""
    messages = [each for each in read_passages() if is_message(each)]
    odd = re.compile(r"(?:^|; )or \w|docs/[\w-]+\.md\b")
    assert [f"{each.place}: {each.text}" for each in messages if odd.search(each.text)] == []
    named = {name for each in messages for name in re.findall(r"breakglass docs ([\w-]+)", each.text)} - {"CODE"}
    assert {"runbook", "api", "alerts"} <= named <= set(read_documents())


def test_a_document_says_what_it_is_for() -> None:
    """Each begins with one phrase, which `breakglass docs` lists. All together have at most so many words."""
    for name, text in read_documents().items():
        assert re.fullmatch(r"[A-Z][^\[\n]{20,140}", purpose(text)), name
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
    counts = {name: len(path.read_text("utf-8").split()) for path in found if (name := str(path.relative_to(ROOT)))}
    assert sum(count for name, count in counts.items() if name not in NOT_COUNTED) <= MOST_WORDS, counts
