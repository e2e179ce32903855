"""The text on the console, if the guest uses VGA's text mode, for people who can't see the picture."""

import re

from ..grammar import escape
from ..host.paths import Host
from ..host.qmp import Qmp, QmpError, QmpSilent
from .guest_memory import ask_person

_SIZES = ("720 x 400,", "640 x 400,")  # a picture of text has 80 columns of 9 or 8 pixels and 25 rows of 16
_COLUMNS, _TEXT_ROWS = 80, 25
_PLACE = "0xb8000"
_BYTE = re.compile(r"\b0x([0-9a-f]{2})\b")


def read_text_screen(host: Host, about: str, seconds: float) -> list[str]:
    """Return the lines of a console whose picture is `about` of that size, from VGA's memory; none for another size.

    In any other mode, reading VGA's memory would change what the guest draws.
    """
    if not about.startswith(_SIZES):
        return []
    try:
        with Qmp(host.qmp, seconds) as qmp:
            answer = ask_person(qmp, f"xp /{2 * _COLUMNS * _TEXT_ROWS}xb {_PLACE}")
    except (QmpSilent, QmpError):
        return []
    return decode_cells(bytes.fromhex("".join(_BYTE.findall(answer))))


def decode_cells(cells: bytes) -> list[str]:
    """Return the text of VGA's cells, a character and a colour each, escaped, without the empty rows at the end."""
    text = cells[::2].replace(b"\0", b" ").decode("cp437")
    rows = [escape(text[at : at + _COLUMNS].rstrip()) for at in range(0, len(text), _COLUMNS)]
    while rows and not rows[-1]:
        rows.pop()
    return rows
