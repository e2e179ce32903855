"""A pairing link: the address that it opens, the directory in which the key waits, and the QR code."""

import os
import shutil
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

from ...config.pairing import PairingPlace
from ..environment import checked_url
from ..output import CommandError, remark, show_black_on_white

# --- Decides which address a pairing link opens, and where the sealed key waits ---

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NOTHING_YET = "nothing was changed"


def find_page(given: str | None, urls: Sequence[str]) -> str:
    """Return the page's address, which ends with a slash. Raises CommandError if it can't be used for pairing."""
    if given is None and not urls:
        hint = "add --url https://…/, or write [server] url into the configuration"
        raise CommandError(f"the handler's address is not known; {_NOTHING_YET}", hint)
    url = checked_url("--url" if given is not None else "server.url", given if given is not None else urls[0])
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        message = f"{url} is not an https address, and a page there can't sign; {_NOTHING_YET}"
        raise CommandError(message, "name one with --url https://…/")
    if given is None and len(urls) > 1:
        hint = "its handler must share sessions.dir with this machine; otherwise name this machine's handler with --url"
        remark(f"the link opens {url}, the first of [server] url", hint)
    return url if url.endswith("/") else f"{url}/"


def find_sessions(place: PairingPlace, pid: int | None) -> str:
    """Return sessions.dir. A relative one starts at the handler's working directory, known from its process."""
    if os.path.isabs(place.sessions_dir):
        return place.sessions_dir
    try:
        return os.path.join(os.readlink(f"/proc/{pid}/cwd"), place.sessions_dir) if pid else _from_here(place)
    except OSError:
        return _from_here(place)


def _from_here(place: PairingPlace) -> str:
    directory = os.path.abspath(place.sessions_dir)
    remark(f"the key waits in {directory}, because sessions.dir is relative", "the handler must run in this directory")
    return directory


# --- Draws a QR code in a terminal, black on white, independent of the terminal's colours ---

BORDER = 4  # modules of the quiet zone on each side, which a scanner needs (ISO/IEC 18004)
_BLOCKS = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


def draw_qr(text: str) -> bool:
    """Draw a text as a QR code if standard output is a large enough terminal. Return whether it was drawn."""
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
