"""Reads of the configuration what `keys --pair` needs: no secret, and no other file."""

from pathlib import Path
from typing import NamedTuple

from .load import parse_toml, unreadable
from .problems import ConfigError
from .server import read_server


class PairingPlace(NamedTuple):
    """The handler's user, if one is named, the page's addresses, and sessions.dir."""

    user: str
    urls: tuple[str, ...]
    sessions_dir: str


def read_pairing_place(path: Path) -> PairingPlace:
    """Return it. Raises ConfigError for a file that can't be read, and for a fault in [server] or in sessions.dir."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError([unreadable(path, error)]) from None
    top = parse_toml(text, lambda _: "")
    server, directory = read_server(top), top.get_table("sessions").get_str("dir", "var/sessions")
    if top.problems:
        raise ConfigError(top.problems)
    return PairingPlace(server.user, server.urls, directory)
