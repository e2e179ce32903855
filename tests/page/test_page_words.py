"""The words of the page's own files: none that an operator would have to ask about."""

import re

from breakglass.server.app import PAGE

OURS = re.compile(r".*(?:handler|not\s+isolated|not\s+checked|forced\s+command).*", re.IGNORECASE)  # codes have hyphens
COMMENT = re.compile(r"/\*.*?\*/|<!--.*?-->|(?:^|(?<=\s))//[^\n]*", re.DOTALL)


def find_our_words(source: str) -> list[str]:
    """Return the lines of a file, without its comments, that have a word which only we would understand."""
    return OURS.findall(COMMENT.sub("", source))


def test_no_word_that_an_operator_would_have_to_ask_about() -> None:
    """The page says Breakglass, not handler, and what a state means for a person, not what our own parts call it."""
    files = [path for path in PAGE.rglob("*.*") if path.suffix in (".js", ".html", ".webmanifest")]
    assert len(files) > 30
    found = {str(path): find_our_words(path.read_text(encoding="utf-8")) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_comment_may_say_it() -> None:
    """A comment is left out, and what only looks like one is not."""
    source = '/** the handler\n * @type {x} y */ const code = "not-checked"; // handler\n<!-- not checked -->\n'
    assert find_our_words(source) == []
    words = ['a("https://handler");', "<p>Not checked</p>", "not\n\tisolated"]
    assert find_our_words("\n".join(words)) == words
