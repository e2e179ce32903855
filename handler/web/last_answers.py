"""The answers that end a connection before there is a request."""

import json

from ..errors import BadRequest, BreakglassError, TooLarge, TooSlow

HEADER_SECONDS = 10.0
HEADER_BYTES = 32 * 1024


def _last_answer(status: str, error: BreakglassError) -> bytes:
    body = json.dumps(error.as_json()).encode() + b"\n"
    headers = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
    return f"HTTP/1.1 {status}\r\n{headers}\r\n".encode() + body


TOO_SLOW = _last_answer("408 Request Timeout", TooSlow(f"the headers did not arrive in {HEADER_SECONDS:g} s"))
TOO_LARGE = _last_answer("413 Content Too Large", TooLarge(f"the headers are longer than {HEADER_BYTES} bytes"))
NOT_HTTP = _last_answer("400 Bad Request", BadRequest("this is not an HTTP request"))
