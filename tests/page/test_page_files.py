"""The files of the page are short modules, and each is named where a browser looks for it."""

import base64
import gzip
import hashlib
import json
import os.path
import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from breakglass.agents.pve.words import VERSION
from breakglass.server.app import PAGE
from breakglass.web.page import describe_page, sent_bytes, without_comments

from ..support.browser import Stage
from ..support.parts import find_tsc

# Each folder, and what its modules import from besides itself. What is loaded later counts too.
FOLDERS = {
    "": {"vm", "chat", "key", "state", "base"},
    "vm": {"state", "base"},
    "chat": {"state", "base"},
    "key": {"state", "base"},
    "state": {"base"},
    "base": set[str](),
}


def name_of(path: Path) -> str:
    """Return a file's name as a browser asks for it."""
    return path.relative_to(PAGE).as_posix()


FILES = sorted(path for path in PAGE.rglob("*") if path.is_file())
SCRIPTS = [name_of(path) for path in FILES if path.suffix == ".js"]
MODULES = [name for name in SCRIPTS if name not in ("sw.js", "base/start_trouble.js")]


def imports_of(name: str) -> set[str]:
    """Return the modules that a module imports, at once or later, without those that only its types name."""
    source = re.sub(r"/\*\*.*?\*/", "", (PAGE / name).read_text(encoding="utf-8"), flags=re.DOTALL)
    named = re.findall(r'"(\.{1,2}/[\w/.-]+\.js)"', source)
    return {os.path.normpath(PurePosixPath(name).parent / each) for each in named}


# Reading markup and evaluating text; and a lookbehind, which only Safari 16.4 and later can read.
FORBIDDEN = re.compile(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|\(\?<[=!]")


def test_text_stays_text() -> None:
    """No script reads markup, evaluates text, has a lookbehind, or is longer than 250 lines."""
    sources = {name: (PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS}
    assert [name for name, source in sources.items() if FORBIDDEN.search(source)] == []
    assert [name for name, source in sources.items() if len(source.splitlines()) > 250] == []


def test_the_folders_are_layers() -> None:
    """app.js and press.js are above vm/, chat/ and key/, which don't import each other; then come state/ and base/."""
    folders = {name: name.rpartition("/")[0] for name in MODULES}
    assert {name for name in MODULES if not folders[name]} == {"app.js", "press.js"}
    assert set(folders.values()) == set(FOLDERS)
    arrows = {(name, other) for name in MODULES for other in imports_of(name)}
    assert len(arrows) > len(MODULES)
    wrong = {(name, other) for name, other in arrows if folders[other] not in FOLDERS[folders[name]] | {folders[name]}}
    assert wrong == set()


def test_the_list_has_every_file_and_its_digest() -> None:
    """The list names what a device stores: all but the worker and the pictures."""
    listed = json.loads(describe_page(PAGE))
    assert listed["version"] == VERSION
    stored = {name_of(path) for path in FILES if path.suffix != ".png"} - {"sw.js"}
    assert {name.replace("./", "index.html") for name in listed["files"]} == stored
    for name, digest in listed["files"].items():
        sent = sent_bytes(PAGE / name.replace("./", "index.html"))
        assert base64.b64decode(digest) == hashlib.sha256(sent).digest()


def test_the_list_follows_the_files(tmp_path: Path) -> None:
    """A file that changes, comes or goes changes the list at once."""
    (tmp_path / "index.html").write_text("<title>")
    (tmp_path / "app.js").write_text("first")
    first = json.loads(describe_page(tmp_path))["files"]
    (tmp_path / "app.js").write_text("second")
    (tmp_path / "more.css").write_text("")
    second = json.loads(describe_page(tmp_path))["files"]
    assert set(second) == {"./", "app.js", "more.css"}
    assert (second["./"], second["app.js"] == first["app.js"]) == (first["./"], False)
    (tmp_path / "app.js").unlink()
    assert set(json.loads(describe_page(tmp_path))["files"]) == {"./", "more.css"}


@pytest.mark.real("chromium", "sshd", "qemu")
def test_a_device_that_knows_the_list_gets_no_body(stage: Stage) -> None:
    """The list has a tag. If a request has the same tag, the handler answers 304."""
    service = stage.service
    first = service.send("GET", "/files.json", headers={"Accept-Encoding": "gzip"})
    assert gzip.decompress(first.body) == describe_page(PAGE)
    assert (first.status, first.headers["content-type"]) == (200, "application/json")
    again = service.send("GET", "/files.json", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert again.headers["cache-control"] == "no-cache, no-transform"


# --- the page's table of verdict codes, held to what it repeats ---

API = Path(__file__).parent.parent.parent / "docs/api.md"
PRINT = 'import("./base/words.js").then(({VERDICTS}) => console.log(Object.keys(VERDICTS).join(" ")));'


def test_the_page_knows_each_verdict() -> None:
    """The page has words for each verdict that docs/api.md lists for a look, and for no other."""
    section = API.read_text(encoding="utf-8").partition("**Verdict codes.**")[2].partition("\n### ")[0]
    [listed] = re.findall(r"^\| `done`: `forensics` \| `([a-z -]+)` \|$", section, re.MULTILINE)
    assert "In a `status`, a VM that runs has the code `qemu-running` or `stale-copy`" in " ".join(section.split())
    codes = {*listed.split(), "qemu-running"}
    command = ["node", "--disable-warning=MODULE_TYPELESS_PACKAGE_JSON", "-e", PRINT]
    ran = subprocess.run(command, cwd=PAGE, capture_output=True, text=True, timeout=60, check=True)
    assert set(ran.stdout.split()) == codes
    samples = (PAGE.parent / "tests/page_js/samples.js").read_text(encoding="utf-8")
    [swept] = re.findall(r"VERDICT_CODES = \[(.*?)\];", samples, re.DOTALL)
    assert set(re.findall(r'"([a-z-]+)"', swept)) == codes


# --- what is sent of the page's code is the code without its comments, and nothing else is left out ---

OPTIONS = ["--allowJs", "--noCheck", "--removeComments"]
OPTIONS += ["--target", "esnext", "--module", "esnext", "--moduleResolution", "bundler"]


@pytest.mark.slow
@pytest.mark.real("tsc")
def test_every_script_is_the_same_program(tmp_path: Path) -> None:
    """The compiler, whose own layout has no comments, finds the same code in what is sent as in the source.

    It would find a line that is gone.
    """
    sources = {name: (PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS}
    kinds = {
        "source": sources,
        "sent": {name: without_comments(".js", source) for name, source in sources.items()},
        "short": {"app.js": sources["app.js"].replace(");\n", ");\n1;\n", 1)},
    }
    paths = {(kind, name): tmp_path / kind / name for kind, texts in kinds.items() for name in texts}
    for (kind, name), path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(kinds[kind][name], encoding="utf-8")
    places = ["--rootDir", str(tmp_path), "--outDir", str(tmp_path / "out")]
    subprocess.run([str(find_tsc()), *OPTIONS, *places, *map(str, paths.values())], check=True, timeout=120)
    code = {each: (tmp_path / "out" / "/".join(each)).read_text(encoding="utf-8") for each in paths}
    assert [name for name in SCRIPTS if code["source", name] != code["sent", name]] == []
    assert code["short", "app.js"] != code["source", "app.js"]


def test_a_comment_is_not_sent_and_a_text_is() -> None:
    """What may be within a text stays, even if it is a comment."""
    for source, sent in (
        ("go(); // now", "go();"),
        ("\tgo(1, // one\n\t\t2);", "\tgo(1,\n\t\t2);"),
        ("const a = /** @type {HTMLElement} */ (b);", "const a = (b);"),
        ("/** Says it.\n * @param {string} a */\ngo(a); // once\n// end", "\n\ngo(a);\n"),
        ('say("go; // now");', 'say("go; // now");'),
        ("say(`go; // ${now}`);", "say(`go; // ${now}`);"),
        ('open("https://a/");', 'open("https://a/");'),
        ("a = b // c", "a = b // c"),
    ):
        assert without_comments(".js", source) == sent


def test_the_style_sheet_is_the_same() -> None:
    """What is left out of it lies between the marks of a comment."""
    [source] = (path.read_text(encoding="utf-8") for path in PAGE.glob("*.css"))
    both = (source, without_comments(".css", source))
    bare = [re.sub(r"\s+", " ", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)) for text in both]
    assert bare[0] == bare[1]
    assert len(both[1]) < len(both[0])
