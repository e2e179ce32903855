"""What is sent of the page's code is the code without its comments, and nothing else is left out."""

import re
import subprocess
from pathlib import Path

import pytest

from breakglass.server.app import PAGE
from breakglass.web.page import without_comments

from ..support.parts import find_tsc

OPTIONS = ["--allowJs", "--noCheck", "--removeComments"]
OPTIONS += ["--target", "esnext", "--module", "esnext", "--moduleResolution", "bundler"]


def compiled(directory: Path, sources: dict[str, str]) -> dict[str, str]:
    """Return what the compiler makes of each source: its own lay-out of the code, without comments."""
    for name, source in sources.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(source, encoding="utf-8")
    command = [
        str(find_tsc()),
        *OPTIONS,
        "--rootDir",
        str(directory),
        "--outDir",
        str(directory / "out"),
        *(str(directory / name) for name in sources),
    ]
    subprocess.run(command, check=True, timeout=120)
    return {name: (directory / "out" / name).read_text(encoding="utf-8") for name in sources}


@pytest.mark.real("tsc")
def test_every_script_is_the_same_program(tmp_path: Path) -> None:
    """The compiler finds the same code in what is sent as in the source, and would find a line that is gone."""
    sources = {path.relative_to(PAGE).as_posix(): path.read_text(encoding="utf-8") for path in PAGE.rglob("*.js")}
    sent = {name: without_comments(".js", source) for name, source in sources.items()}
    code = compiled(tmp_path / "source", sources)
    assert compiled(tmp_path / "sent", sent) == code
    short = {"app.js": sources["app.js"].replace(");\n", ");\n1;\n", 1)}
    assert compiled(tmp_path / "other", short)["app.js"] != code["app.js"]


@pytest.mark.parametrize(
    ("source", "sent"),
    [
        ("go(); // now", "go();"),
        ("\tgo(1, // one\n\t\t2);", "\tgo(1,\n\t\t2);"),
        ("const a = /** @type {HTMLElement} */ (b);", "const a = (b);"),
        ("/** Says it.\n * @param {string} a */\ngo(a); // once\n// end", "\n\ngo(a);\n"),
        ('say("go; // now");', 'say("go; // now");'),
        ("say(`go; // ${now}`);", "say(`go; // ${now}`);"),
        ('open("https://a/");', 'open("https://a/");'),
        ("a = b // c", "a = b // c"),
    ],
)
def test_a_comment_is_not_sent_and_a_text_is(source: str, sent: str) -> None:
    """What may be within a text stays, even if it is a comment."""
    assert without_comments(".js", source) == sent


def test_the_style_sheet_is_the_same() -> None:
    """What is left out of it lies between the marks of a comment."""
    [source] = (path.read_text(encoding="utf-8") for path in PAGE.glob("*.css"))
    both = (source, without_comments(".css", source))
    bare = [re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)) for text in both]
    assert bare[0] == bare[1]
    assert len(both[1]) < len(both[0])


@pytest.mark.parametrize("path", sorted(PAGE.rglob("*.js")), ids=lambda path: path.name)
def test_a_browser_names_the_lines_of_the_source(path: Path) -> None:
    """Each line that is sent is the source's line of that number, without what is a comment beside code, or empty."""
    source = path.read_text(encoding="utf-8")
    sent = without_comments(".js", source)
    typeless = re.sub(r"/\*\* @(?:type|param) .*?\*/ ?", "", source)
    pairs = list(zip(typeless.split("\n"), sent.split("\n"), strict=True))
    assert [pair for pair in pairs if pair[1] not in ("", pair[0], pair[0].partition(" // ")[0])] == []
