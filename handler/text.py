"""Text for people: cut to a length, and without control characters. Pure."""

REASON_BYTES = 5 * 1024


def shown(text: str) -> str:
    """Return a sender's name for an error message: cut, and escaped to ASCII."""
    return ascii(text[:40])[1:-1]


def cut_utf8(text: str, limit: int) -> str:
    """Return `text` cut to at most `limit` bytes of UTF-8, at a character's end."""
    return text.encode()[:limit].decode("utf-8", "ignore")
