"""Serves the page's files, compressed and without comments, and the list of the files."""

import gzip
import hashlib
import json
import re
from base64 import b64encode
from functools import lru_cache
from pathlib import Path

from anyio.to_thread import run_sync
from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..agents.pve.words import VERSION
from .client_headers import accepts_gzip
from .replies import NDJSON, PLAIN

# --- Remove the comments from the page's files, because they are a fifth of the compressed bytes. Pure ---
#
# On a line of 400 kbit/s, that saves a quarter of a second of the first visit. A comment on its own lines is sent as
# empty lines, so that line numbers in a browser's messages match the source. On a line with code, the same marks may be
# inside a text. There, only two kinds are removed: a type comment, whose marks occur in no text, and a comment at the
# line's end, if no mark follows that could end a text.

_TYPE = r"/\*\* @(?:type|param) [^*\n]*\*/ ?"
_BEHIND = r"(?<=[;{},(]) // [^\"`\n]*$"
_BLOCK = r"/\*(?:[^*]|\*(?!/))*\*/"
_COMMENTS = {
    ".js": re.compile(rf"^[ \t]*(?://.*|{_BLOCK}[ \t]*)$|{_TYPE}|{_BEHIND}", re.MULTILINE),
    ".css": re.compile(rf"^[ \t]*{_BLOCK}[ \t]*$", re.MULTILINE),
}


def without_comments(suffix: str, source: str) -> str:
    """Return a file's text without comments. Lines keep their numbers. The suffix tells the language."""
    comments = _COMMENTS.get(suffix)
    return comments.sub(lambda found: "\n" * found[0].count("\n"), source) if comments else source


# --- `/files.json`: the files that a device stores to open the page without a network, with their digests ---
#
# The service worker stores all of them or none, and rejects a file whose digest differs. So it never mixes two
# versions, even during an upgrade of the package, and never stores a proxy's error page. A single request shows that
# nothing has changed.

PAGE_LIST = "files.json"
# .png files are not stored, because the system keeps the icons of an installed page
_STORED = (".css", ".html", ".js", ".svg", ".webmanifest")
_WORKER = "sw.js"  # the browser stores the worker by itself

_Entry = tuple[str, int, int]


def describe_page(directory: Path) -> bytes:
    """Return the list as JSON. `./` is index.html, under the name by which it is opened."""
    return _describe(directory, _entries(directory))


def _entries(directory: Path) -> tuple[_Entry, ...]:
    paths = sorted(path for path in directory.rglob("*") if path.suffix in _STORED and path.name != _WORKER)
    found = [(path, path.stat()) for path in paths]
    return tuple((path.relative_to(directory).as_posix(), stat.st_mtime_ns, stat.st_size) for path, stat in found)


@lru_cache(maxsize=4)
def _describe(directory: Path, entries: tuple[_Entry, ...]) -> bytes:
    """Read and digest every file, once per version."""
    digests = {_address(name): _digest(directory / name) for name, _, _ in entries}
    return json.dumps({"version": VERSION, "files": digests}, separators=(",", ":")).encode()


def _address(name: str) -> str:
    return "./" if name == "index.html" else name


def sent_bytes(path: Path) -> bytes:
    """Return the bytes of a page file as a browser gets them."""
    return without_comments(path.suffix, path.read_bytes().decode()).encode()


def _digest(path: Path) -> str:
    return b64encode(hashlib.sha256(sent_bytes(path)).digest()).decode()


# --- Send the page's files, each read once. Compress them, and answers that are one JSON object, with gzip ---
#
# A stream is never compressed, because its lines would wait in the compressor. docs/threat-model.md says why compressed
# answers reveal nothing.

LEAST_BYTES = 1024  # compression hardly helps a shorter text; every error is shorter, even one with a challenge
ANSWER_LEVEL = 6  # takes a third of the time of level 9; from 128 KiB on, starlette uses a thread

_ACCEPT = b"accept-encoding"
_PACKED = ".png"  # is compressed already
_KEPT = ("content-type", "etag", "vary")


def _client_accepts_gzip(scope: Scope) -> bool:
    return accepts_gzip(Headers(scope=scope).getlist(_ACCEPT.decode()))


class GzipAnswers:
    """Compresses the answers of a route for clients that accept gzip.

    starlette's middleware treats each mention of gzip as a request for it, even `gzip;q=0`. So it gets a header that
    this class has rewritten.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = GZipMiddleware(app, LEAST_BYTES, ANSWER_LEVEL, exclude_content_types=(NDJSON,))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = [(name, value) for name, value in scope["headers"] if name != _ACCEPT]
        if _client_accepts_gzip(scope):
            headers.append((_ACCEPT, b"gzip"))

        async def send_without_mark(message: Message) -> None:
            if message["type"] == "http.response.start":
                marked = (b"content-encoding", PLAIN.encode())
                message["headers"] = [header for header in message["headers"] if tuple(header) != marked]
            await send(message)

        await self._app({**scope, "headers": headers}, receive, send_without_mark)


class PageFiles(StaticFiles):
    """Serves the page's files and their list, compressed for clients that accept gzip."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, whole or `304 Not Modified`.

        A compressed file has a weak tag, because its bytes differ from the bytes of the plain file.
        """
        if path == PAGE_LIST and scope["method"] in ("GET", "HEAD"):
            return await self._list_files(scope)
        response = await super().get_response(path, scope)
        response.headers.add_vary_header("Accept-Encoding")
        if "etag" not in response.headers or path.endswith(_PACKED):
            return response
        packed = _client_accepts_gzip(scope)
        if packed:
            response.headers["etag"] = f"W/{response.headers['etag']}"
        if not isinstance(response, FileResponse):
            return response
        packed = packed and int(response.headers["content-length"]) >= LEAST_BYTES
        body = await run_sync(sent_file, str(response.path), packed, response.headers["etag"])
        kept = {name: response.headers[name] for name in _KEPT}
        return Response(body, headers={**kept, **({"content-encoding": "gzip"} if packed else {})})

    async def _list_files(self, scope: Scope) -> Response:
        assert self.directory is not None
        body = await run_sync(describe_page, Path(self.directory))
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        headers = {"content-type": "application/json", "etag": tag, "vary": "Accept-Encoding"}
        known = self.is_not_modified(Headers(headers), Headers(scope=scope))
        headers["etag"] = f"W/{tag}"  # a weak tag, because plain and compressed bytes share it
        if known:
            return NotModifiedResponse(Headers(headers))
        if not _client_accepts_gzip(scope):
            return Response(body, headers=headers)
        return Response(gzip.compress(body, mtime=0), headers={**headers, "content-encoding": "gzip"})


@lru_cache(maxsize=128)
def sent_file(path: str, packed: bool, tag: str) -> bytes:
    """Return the bytes to send for a file, compressed if `packed`. Each version (`tag`) is read only once."""
    body = sent_bytes(Path(path))
    return gzip.compress(body, mtime=0) if packed else body
