"""Prepares text for people: cuts it to a length and removes control characters. Pure."""

import re

REASON_BYTES = 5 * 1024
# control characters, including those for text direction, and halves of a character, which no answer can carry
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_MARKER = re.compile(r"\A(?:[-*+>]|#+|\d+[.)]) +")  # the mark of a list, a quotation or a heading
# a sentence does not end after "e.g.", because a lowercase letter follows
_SENTENCE = re.compile(r"\S+ .+?[.!?](?=[\"')*]* +[^\sa-z])[\"')*]*")


def shown(text: str) -> str:
    """Return a sender's name for an error message: cut, and escaped to ASCII."""
    return ascii(text[:40])[1:-1]


def cut_utf8(text: str, limit: int) -> str:
    """Return `text` cut to at most `limit` bytes of UTF-8, at a character's end."""
    return text.encode()[:limit].decode("utf-8", "ignore")


def plain_line(text: str) -> str:
    """Return a text on one line, without terminal control characters and direction marks."""
    return " ".join(_UNSAFE.sub(" ", text).split())


def first_sentence(text: str, most: int) -> str:
    """Return the first sentence of a text's last paragraph on one line, cut to `most` characters.

    A sentence of one word is skipped, because "No." or "Dr." says nothing.
    """
    line = _MARKER.sub("", plain_line(text.rstrip().rpartition("\n\n")[2]))
    found = _SENTENCE.match(line)
    return (found[0] if found else line)[:most]
