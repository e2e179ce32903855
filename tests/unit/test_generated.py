"""The parts of other files that repeat the table of verbs."""

from ..support.generated import make_files


def test_the_generated_files_are_current() -> None:
    """The documents, the page and claude's brief agree with the table. `./dev generate` writes them again."""
    stale = [path.name for path, text in make_files().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "./dev generate"
