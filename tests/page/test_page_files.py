"""The files of the page are short modules, and each is named where a browser looks for it."""

import base64
import gzip
import hashlib
import json
import os.path
import re
from graphlib import TopologicalSorter
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

import pytest
from playwright.sync_api import Page

from breakglass.agents.pve.words import VERSION
from breakglass.server.app import PAGE
from breakglass.web.page import describe_page, sent_bytes

from ..support.browser import Stage, Visit
from ..support.icons import PICTURES, svg_of

MOST_LINES = 250
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
# The conversation, loaded when the page has nothing else to do; and what pairs a device by a link.
LATER = {name for name in MODULES if name.startswith("chat/")} - {"chat/load.js"} | {"key/pair.js", "vm/report.js"}


class Links(HTMLParser):
    """Collects from the page's head the `href` of its links by `rel`, and the modules that it starts.

    `plain` are the scripts that are not modules. They run in browsers that know no modules.
    """

    def __init__(self) -> None:
        super().__init__()
        self.links: dict[str, list[str]] = {}
        self.started: list[str] = []
        self.plain: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "link":
            self.links.setdefault(values["rel"], []).append(values["href"])
        if tag == "script":
            (self.started if values.get("type") == "module" else self.plain).append(values["src"])


@pytest.fixture
def head() -> Links:
    links = Links()
    links.feed((PAGE / "index.html").read_text(encoding="utf-8"))
    return links


def imported_by(name: str) -> set[str]:
    """Return the modules that a module imports at once, by their names in static_site/."""
    source = source_of(name)
    found = re.findall(r'^(?:import|export)\b[^;()]*?"(\.{1,2}/[\w/.-]+\.js)";', source, re.MULTILINE)
    named = re.findall(r'"\.{1,2}/[\w/.-]+\.js"', source)
    assert len(found) + len(loaded_later_by(name)) == len(named), f"{name} names a module in another way"
    return {beside(name, each) for each in found}


def loaded_later_by(name: str) -> set[str]:
    """Return the modules that a module loads once it needs them."""
    return {beside(name, each) for each in re.findall(r'\bimport\("(\.[\w/.-]+\.js)"\)', source_of(name))}


def beside(name: str, imported: str) -> str:
    """Return the name of a module that another one imports by a relative path."""
    return os.path.normpath(PurePosixPath(name).parent / imported)


def source_of(name: str) -> str:
    """Return a module's text without its types, which name modules too."""
    return re.sub(r"/\*\*.*?\*/", "", (PAGE / name).read_text(encoding="utf-8"), flags=re.DOTALL)


def reached_from(name: str) -> set[str]:
    """Return this module and every module that a browser loads for it."""
    reached, waiting = set[str](), {name}
    while waiting:
        reached |= waiting
        waiting = {imported for each in waiting for imported in imported_by(each)} - reached
    return reached


def test_modules_are_short() -> None:
    """No module is longer than 250 lines."""
    lines = {name: len((PAGE / name).read_text(encoding="utf-8").splitlines()) for name in SCRIPTS}
    assert {name for name, count in lines.items() if count > MOST_LINES} == set()


def test_no_modules_import_each_other() -> None:
    """The imports have no circle, not even with modules that are loaded later."""
    imports = {name: imported_by(name) | loaded_later_by(name) for name in MODULES}
    TopologicalSorter(imports).prepare()  # it names the circle that it finds


def test_the_folders_are_layers() -> None:
    """app.js is above vm/, chat/ and key/, which don't import each other. Below them are state/, then base/."""
    folders = {name: name.rpartition("/")[0] for name in MODULES}
    assert {name for name in MODULES if not folders[name]} == {"app.js"}
    assert set(folders.values()) == set(FOLDERS)
    arrows = {(name, other) for name in MODULES for other in imported_by(name) | loaded_later_by(name)}
    wrong = {(name, other) for name, other in arrows if folders[other] not in FOLDERS[folders[name]] | {folders[name]}}
    assert wrong == set()


def test_no_module_looks_behind() -> None:
    """The page works in Safari 16.0. Only 16.4 and later can read a regular expression with a lookbehind."""
    sources = {name: (PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS}
    assert [name for name, source in sources.items() if re.search(r"\(\?<[=!]", source)] == []


def test_every_module_is_preloaded(head: Links) -> None:
    """The page names each module that it begins with, so that a browser asks for all of them at once.

    The conversation's, what pairs a device and the report are loaded later, and nothing else is.
    """
    [start] = head.started
    preloaded = head.links["modulepreload"]
    assert len(preloaded) == len(set(preloaded))
    first = reached_from(start)
    assert set(preloaded) == first - {start}
    later = {name for each in first for wanted in loaded_later_by(each) for name in reached_from(wanted)} - first
    assert later == LATER
    assert first | later == set(MODULES)


def test_every_file_is_asked_for(head: Links) -> None:
    """There is no file that nothing names, and no name without a file."""
    manifest = json.loads((PAGE / "manifest.webmanifest").read_text(encoding="utf-8"))
    assert head.links.pop("preload") == ["health"]  # index.html asks for these at once, and not after its start
    requested = {*head.started, *head.plain, *(name for names in head.links.values() for name in names)}
    requested |= {icon["src"] for icon in manifest["icons"]} | {"index.html", "sw.js"}
    assert requested | LATER == {name_of(path) for path in FILES}


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
@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_device_that_knows_the_list_gets_no_body(stage: Stage, encoding: str) -> None:
    """The list has a tag. If a request has the same tag, the handler answers 304."""
    service = stage.service
    first = service.send("GET", "/files.json", headers={"Accept-Encoding": encoding})
    body = gzip.decompress(first.body) if encoding == "gzip" else first.body
    assert body == describe_page(PAGE)
    assert (first.status, first.headers["content-type"]) == (200, "application/json")
    again = service.send("GET", "/files.json", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert again.headers["cache-control"] == "no-cache, no-transform"
    assert service.send("GET", "/files.json", headers={"If-None-Match": '"other"'}).status == 200
    assert service.send("POST", "/files.json").status == 405


# --- an installed page ---


@pytest.mark.real("chromium", "sshd", "qemu")
def test_chromium_takes_the_manifest(visit: Visit) -> None:
    """The browser finds no fault in the manifest, and can load its icons."""
    page = visit.open()
    client = visit.context.new_cdp_session(page)
    found = client.send("Page.getAppManifest")
    assert found["errors"] == []
    assert found["url"] == f"{visit.stage.url}manifest.webmanifest"
    for icon in json.loads(found["data"])["icons"]:
        size = page.evaluate(SIZE_OF, icon["src"])
        assert icon["sizes"] in ("any", f"{size[0]}x{size[1]}")
        reply = visit.stage.service.send("GET", f"/{icon['src']}")
        assert (reply.status, reply.headers["content-type"]) == (200, icon["type"])


@pytest.mark.all
@pytest.mark.real("chromium", "sshd", "qemu")
@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_are_drawn_from_the_icon(visit: Visit, name: str) -> None:
    """A picture equals the drawing of icon.svg. `python -m tests.support.icons` draws it again."""
    page = visit.open()
    assert apart(page, name, svg_of(name)) < 2
    assert apart(page, name, svg_of(name).replace("#ffb224", "#3060ff")) > 2


SIZE_OF = """async (name) => {
    const picture = new Image();
    picture.src = name;
    await picture.decode();
    return [picture.naturalWidth, picture.naturalHeight];
}"""
MEAN_DIFFERENCE = """async ([name, drawing, side]) => {
    const pixels = async (address) => {
        const picture = new Image(side, side);
        picture.src = address;
        await picture.decode();
        const board = new OffscreenCanvas(side, side).getContext("2d");
        board.drawImage(picture, 0, 0, side, side);
        return board.getImageData(0, 0, side, side).data;
    };
    const blob = new Blob([drawing], {type: "image/svg+xml"});
    const [one, other] = [await pixels(name), await pixels(URL.createObjectURL(blob))];
    return one.reduce((sum, value, n) => sum + Math.abs(value - other[n]), 0) / one.length;
}"""


def apart(page: Page, name: str, drawing: str) -> float:
    """Return by how much a picture and a drawing differ: 0 to 255, the mean over all pixels and colours."""
    difference: float = page.evaluate(MEAN_DIFFERENCE, [name, drawing, PICTURES[name][0]])
    return difference
