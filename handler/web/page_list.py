"""`/files.json`: the files that a device stores to open the page without a network, and the digest of each.

The service worker stores all of them or none, and takes no file whose digest differs. So it never mixes two versions,
not even during an upgrade of the package, and stores no proxy's error page. One request tells it that nothing changed.
"""

import hashlib
import json
from base64 import b64encode
from functools import lru_cache
from pathlib import Path

from ..agents.pve.words import VERSION
from .page_text import without_comments

PAGE_LIST = "files.json"
_STORED = (".css", ".html", ".js", ".svg", ".webmanifest")  # an installed page's pictures are the system's
_WORKER = "sw.js"  # the browser keeps it by itself

_Entry = tuple[str, int, int]


def describe_page(directory: Path) -> bytes:
    """Return the list as JSON. `./` is index.html, by the name under which it is opened."""
    return _describe(directory, _entries(directory))


def _entries(directory: Path) -> tuple[_Entry, ...]:
    paths = sorted(path for path in directory.rglob("*") if path.suffix in _STORED and path.name != _WORKER)
    found = [(path, path.stat()) for path in paths]
    return tuple((path.relative_to(directory).as_posix(), stat.st_mtime_ns, stat.st_size) for path, stat in found)


@lru_cache(maxsize=4)
def _describe(directory: Path, entries: tuple[_Entry, ...]) -> bytes:
    """Read every file once in each version of it."""
    digests = {_address(name): _digest(directory / name) for name, _, _ in entries}
    return json.dumps({"version": VERSION, "files": digests}, separators=(",", ":")).encode()


def _address(name: str) -> str:
    return "./" if name == "index.html" else name


def sent_bytes(path: Path) -> bytes:
    """Return what a browser gets of a file of the page."""
    return without_comments(path.suffix, path.read_bytes().decode()).encode()


def _digest(path: Path) -> str:
    return b64encode(hashlib.sha256(sent_bytes(path)).digest()).decode()
