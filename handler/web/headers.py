"""The security and cache headers of every answer."""

import re

from starlette.types import Message, Send

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "worker-src 'self'; manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types breakglass"
)
_ALWAYS = [(b"x-content-type-options", b"nosniff")]
# Browsers ignore these on what a page loads, the worker excepted, and on a bad line they would cost 0.2 s there.
_OF_DOCUMENTS = [
    (b"content-security-policy", _CSP.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
_PART = re.compile(r"/(?!sw\.js$)[\w-]+\.(js|css|webmanifest|json)")
_NEVER_STORED = [(b"cache-control", b"no-store, no-transform"), (b"x-accel-buffering", b"no")]
# a proxy that alters a file would keep every device from storing the page: page_list.py
_REVALIDATED = [(b"cache-control", b"no-cache, no-transform")]


def with_headers(is_api: bool, path: str, send: Send) -> Send:
    """Return a `send` that adds the headers of the API, whose answers are never stored, or of the page's files."""
    extra = _ALWAYS + (_NEVER_STORED if is_api else _REVALIDATED)
    if is_api or not _PART.fullmatch(path):
        extra += _OF_DOCUMENTS

    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *extra]
        await send(message)

    return guarded
