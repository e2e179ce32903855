"""Draws a QR code in a terminal, black on white whatever the terminal's own colours are."""

import os
import shutil
import sys

from ..output import show_black_on_white

BORDER = 4  # modules of the quiet zone on each side, which a scanner needs (ISO/IEC 18004)
_BLOCKS = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


def draw_qr(text: str) -> bool:
    """Draw a text, if standard output is a terminal with room and letters for it; tell whether it was drawn."""
    rows = make_rows(text)
    encoding = sys.stdout.encoding or "ascii"
    try:
        "".join(_BLOCKS.values()).encode(encoding)
    except UnicodeEncodeError:
        return False
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if not is_terminal or shutil.get_terminal_size().columns < len(rows[0]):
        return False
    show_black_on_white(rows)
    return True


def make_rows(text: str) -> list[str]:
    """Return the rows of a QR code: a character is one module wide and two high."""
    import segno  # only this command needs it

    matrix = segno.make(text, error="l", micro=False).matrix
    width = len(matrix) + 2 * BORDER
    blank = [[False] * width for _ in range(BORDER)]
    inner = [[False] * BORDER + [bool(module) for module in row] + [False] * BORDER for row in matrix]
    modules = [*blank, *inner, *blank]
    if len(modules) % 2:
        modules.append([False] * width)
    pairs = zip(modules[::2], modules[1::2], strict=True)
    return ["".join(_BLOCKS[pair] for pair in zip(upper, lower, strict=True)) for upper, lower in pairs]
