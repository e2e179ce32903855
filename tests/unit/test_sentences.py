"""The mechanical half of the rule for sentences: every noun stands in its sentence, and a word links two clauses.

The other half needs a reader: `./dev words SEED` draws sentences for one.
"""

import re
from collections.abc import Iterator
from functools import cache

from ..support.documents import ROOT
from ..support.rows import each_row
from ..support.sentences import Passage, read_passages

MOST_WORDS = 42_000
NOT_COUNTED = ("CHANGELOG.md", "docs/cli.md")

PRONOUNS = "it|they|this|that|these|he|she|we|you|there"
RULES = {
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
COLON = re.compile(rf"[\w`…\"”)](?P<colon>: )(?:(?:{PRONOUNS})\b|(?:the|a|an)\b(?P<rest>[^.!?]*))")


def find_colons(text: str) -> Iterator[str]:
    """Yield each clause that a colon links to the one before it. A label and a list may have a colon."""
    for match in COLON.finditer(text):
        before = re.split(r"(?<=[.!?;])\s|[*|(]", text[: match.start("colon")])[-1]
        is_list = match["rest"] is not None and re.search(r",|;|\band\b|\bor\b", match["rest"])
        if len(before.split()) > 4 and not is_list:
            yield text[max(0, match.start() - 40) : match.end()][:100]


@cache
def passages() -> list[Passage]:
    """Return what a person reads: all but the texts that tests send and compare."""
    changelog, tests = ROOT / "CHANGELOG.md", f"{ROOT}/tests/"
    found = [each for each in read_passages() if each.path != changelog]
    return [each for each in found if each.kind != "message" or not str(each.path).startswith(tests)]


@each_row("rule", RULES)
def test_sentences_are_plain(rule: str) -> None:
    """No document, message, docstring or comment has a form that must be read twice."""
    find = re.compile(RULES[rule]).finditer
    found = [(each, match) for each in passages() for match in find(each.text)]
    assert [f"{each.place}: {each.text[max(0, m.start() - 40) : m.end() + 20]}" for each, m in found] == []


def test_a_colon_begins_a_list() -> None:
    """A colon stands before a list or a command; because, so, if or but links two clauses."""
    found = [f"{each.place}: {clause}" for each in passages() for clause in find_colons(each.text)]
    assert found == []


@each_row(
    ("text", "count"),
    [
        ("The handler tries it again later: it has no other way.", 1),
        ("The lock is only held for a moment: the job has ended.", 1),
        ("The host has three things of ours: the agent, its key line and the record.", 0),
        ("Not run: the page in Safari.", 0),
    ],
)
def test_a_label_and_a_list_have_a_colon(text: str, count: int) -> None:
    assert len(list(find_colons(text))) == count


def test_every_kind_of_prose_is_read() -> None:
    kinds = [passage.kind for passage in read_passages()]
    assert min(kinds.count(kind) for kind in ("document", "message", "docstring", "comment")) > 1500


def test_the_documents_are_short() -> None:
    """All documents together have at most so many words, without the changelog and what is generated."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "tests").rglob("*.md")]
    counts = {name: len(path.read_text("utf-8").split()) for path in found if (name := str(path.relative_to(ROOT)))}
    assert sum(count for name, count in counts.items() if name not in NOT_COUNTED) <= MOST_WORDS, counts
