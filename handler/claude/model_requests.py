"""Reads and judges a request that claude sends to its turn's proxy. Standard library only.

Only a request that bears the turn's token and asks for a message goes on to the API, without what belongs to one
connection or to one of its ends.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ..base.compare import same
from .http_messages import LENGTH, PIECE, Headers, HttpError, get_all, read_headers

PATHS = frozenset(f"/v1/messages{more}{query}" for more in ("", "/count_tokens") for query in ("", "?beta=true"))
BODY_BYTES = 32 * 1024 * 1024  # the API takes no longer ones
_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,2000}) HTTP/1\.1\r\n")
_OF_ONE_CONNECTION = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"),
    *("transfer-encoding", "upgrade", "content-length", "expect"),
}
# Each end sets its own: the credential is ours, and no session of the API's outlives a request.
_OF_ONE_END = {"host", "authorization", "x-api-key", "cookie", "set-cookie"}


class Request(NamedTuple):
    """A request of claude's, with the headers that go on to the API."""

    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class RefusedError(Exception):
    """Raised for a request that the API does not answer, with a status, a type and a sentence for claude."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        self.status, self.kind, self.message = status, kind, message


def read_request(incoming: BinaryIO, token_header: str, token: bytes) -> Request | None:
    """Return the next request of a connection, or None at its end.

    Raises RefusedError for a request that is not passed on, OSError when there is no whole one.
    """
    line = incoming.readline(4096)
    if not line:
        return None
    match = _LINE.fullmatch(line)
    if match is None:
        raise RefusedError(400, "invalid_request_error", "this is not a request of HTTP/1.1")
    try:
        headers = read_headers(incoming)
    except HttpError as error:
        raise RefusedError(400, "invalid_request_error", str(error)) from None
    method, target = match[1].decode(), match[2].decode()
    refused = _find_refusal(method, target, get_all(headers, token_header), token)
    body = _read_body(incoming, headers, keep=refused is None)
    if refused is not None:
        raise refused
    return Request(target, tuple(passed_on(headers)), body)


def passed_on(headers: Headers) -> Iterator[tuple[str, str]]:
    """Yield the headers that belong to the message itself."""
    nominated = {name.strip().lower() for value in get_all(headers, "connection") for name in value.split(",")}
    for name, value in headers:
        if name not in _OF_ONE_CONNECTION | _OF_ONE_END | nominated:
            yield name, value


def _find_refusal(method: str, target: str, claimed: list[str], token: bytes) -> RefusedError | None:
    if len(claimed) != 1 or not same(token, claimed[0].encode("utf-8", "replace")):
        return RefusedError(401, "authentication_error", "this is not the token of this turn")
    if method != "POST" or target not in PATHS:
        return RefusedError(404, "not_found_error", "only requests for messages are passed on")
    return None


def _read_body(incoming: BinaryIO, headers: Headers, keep: bool) -> bytes:
    """Read the body of a request; return it only with `keep`. An answer that comes before its end could be lost."""
    claimed = get_all(headers, "content-length") or ["0"]
    if get_all(headers, "transfer-encoding") or len(claimed) != 1 or not LENGTH.fullmatch(claimed[0]):
        raise RefusedError(411, "invalid_request_error", "the body has no length")
    left = int(claimed[0])
    if left > BODY_BYTES:
        raise RefusedError(413, "request_too_large", f"the body is longer than {BODY_BYTES} bytes")
    pieces = []
    while left:
        piece = incoming.read(min(left, PIECE))
        if not piece:
            raise ConnectionAbortedError("in the middle of a request")
        left -= len(piece)
        if keep:
            pieces.append(piece)
    return b"".join(pieces)
