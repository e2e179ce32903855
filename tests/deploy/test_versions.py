"""A version means something. It stands in one place, and CHANGELOG.md has an entry for it."""

import re
from pathlib import Path

from breakglass.agents.pve.words import VERSION

from ..support.previous import PLACE, ROOT

ENTRIES = re.findall(r"(?m)^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))


def test_the_newest_entry_of_the_changelog_is_this_version() -> None:
    """The version is raised together with its entry."""
    assert re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", VERSION)
    assert ENTRIES[0] == VERSION


def test_the_version_stands_in_one_place() -> None:
    """No other program file repeats it, so that no two can differ."""
    sources = [path for top in ("handler", "agents", "static_site", "tests") for path in (ROOT / top).rglob("*")]
    sources += [ROOT / "pyproject.toml", ROOT / "dev", ROOT / "Procfile"]
    number = re.compile(rf"(?<![0-9.]){re.escape(VERSION)}(?![0-9.])")
    texts = {path: path.read_bytes().decode(errors="replace") for path in sources if is_ours(path)}
    assert [str(path.relative_to(ROOT)) for path, text in texts.items() if number.search(text)] == [PLACE]


def is_ours(path: Path) -> bool:
    return path.is_file() and path.suffix in ("", ".py", ".sh", ".js", ".html", ".toml", ".yml", ".txt")
