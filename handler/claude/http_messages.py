"""Reads the heads and bodies of HTTP/1.1 messages for a turn's proxy, and refuses what has two readings.

Standard library only. `http.client` would do too, but takes 37 ms of the processor to load, while claude starts.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

PIECE = 64 * 1024
_MOST_HEADERS = 100
_LINE_BYTES = 64 * 1024
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_STATUS = re.compile(r"HTTP/1\.[01] ([1-5][0-9]{2})(?: ([^\r\n\0]*))?")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[^\r\n]*)?\r?\n")
LENGTH = re.compile(r"[0-9]{1,12}", re.ASCII)

Headers = list[tuple[str, str]]


class HttpError(OSError):
    """Raised for bytes that are no message of HTTP/1.1, or only the beginning of one."""


class Response(NamedTuple):
    """The head of an answer. `length` is None where the body says itself where it ends, or ends with the connection."""

    status: int
    reason: str
    headers: Headers
    length: int | None
    is_chunked: bool
    will_close: bool


def read_headers(incoming: BinaryIO) -> Headers:
    """Return the headers up to the empty line, with their names in lower case."""
    headers: Headers = []
    while line := read_line(incoming):
        match = _HEADER.fullmatch(line)  # which no line that continues another one is
        if match is None or len(headers) == _MOST_HEADERS:
            raise HttpError("a header is not one line of HTTP/1.1, or there are too many")
        headers.append((match[1].lower(), match[2]))
    return headers


def read_line(incoming: BinaryIO) -> str:
    """Return a line without its end."""
    line = incoming.readline(_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise HttpError(f"not a line of HTTP/1.1: {line[:40]!r}" if line else "the connection ended")
    return line.removesuffix(b"\n").removesuffix(b"\r").decode("latin-1")


def get_all(headers: Headers, name: str) -> list[str]:
    """Return the values of a header."""
    return [value for key, value in headers if key == name]


def read_response(incoming: BinaryIO) -> Response:
    """Return the head of an answer to a POST or a GET, after those that only announce it."""
    status = 100
    while status < 200:
        line = read_line(incoming)
        match = _STATUS.fullmatch(line)
        if match is None:
            raise HttpError(f"not an answer of HTTP/1.1: {line[:40]!r}")
        status, reason, headers = int(match[1]), match[2] or "", read_headers(incoming)
    coding, lengths = get_all(headers, "transfer-encoding"), get_all(headers, "content-length")
    is_chunked = [value.lower() for value in coding] == ["chunked"]
    if (coding and not is_chunked) or len(set(lengths)) > 1 or not all(map(LENGTH.fullmatch, lengths)):
        raise HttpError("the length of the answer is not clear")
    length = 0 if status in (204, 304) else int(lengths[0]) if lengths and not is_chunked else None
    closes = "close" in ",".join(get_all(headers, "connection")).lower() or line.startswith("HTTP/1.0")
    will_close = closes or (length is None and not is_chunked)
    return Response(status, reason, headers, length, is_chunked, will_close)


def read_body(incoming: BinaryIO, response: Response) -> Iterator[bytes]:
    """Yield the body of an answer as it comes. Raises HttpError when it ends too early."""
    if response.is_chunked:
        while size := _read_chunk_size(incoming):
            yield from _read_exactly(incoming, size)
            if incoming.readline(2) not in (b"\r\n", b"\n"):
                raise HttpError("a chunk has no end")
        read_headers(incoming)  # the trailer
    elif response.length is not None:
        yield from _read_exactly(incoming, response.length)
    else:
        while piece := incoming.read1(PIECE):  # type: ignore[attr-defined]  # it is a BufferedReader
            yield piece


def _read_chunk_size(incoming: BinaryIO) -> int:
    match = _CHUNK.fullmatch(incoming.readline(_LINE_BYTES))
    if match is None:
        raise HttpError("not a chunk")
    return int(match[1], 16)


def _read_exactly(incoming: BinaryIO, left: int) -> Iterator[bytes]:
    while left:
        piece = incoming.read1(min(left, PIECE))  # type: ignore[attr-defined]
        if not piece:
            raise HttpError("in the middle of an answer")
        left -= len(piece)
        yield piece
