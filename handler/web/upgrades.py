"""Ignores a client's wish for another protocol, as RFC 9110 (7.8) lets a server do: `curl --http2` sends one.

The parser would end such a request at its headers, and its body would be lost.
"""

from collections.abc import Callable, Iterable

import httptools

Header = tuple[bytes, bytes]


class Parser(httptools.HttpRequestParser):
    """A parser that hands what follows the headers to `on_upgrade`, in place of an exception."""

    on_upgrade: Callable[[bytes], None]

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # asyncio gives bytes
        """Parse what has come."""
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self.on_upgrade(data[upgrade.args[0] :])


def without_upgrade(method: bytes, target: bytes, version: str, headers: Iterable[Header]) -> bytes:
    """Return the head of a request that was parsed, without its wish to upgrade."""
    lines = [b"%s %s HTTP/%s" % (method, target, version.encode())]
    for name, value in headers:
        if name == b"connection":
            tokens = [token for token in value.split(b",") if token.strip().lower() != b"upgrade"]
            value = b",".join(tokens)
        if name != b"upgrade":
            lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
