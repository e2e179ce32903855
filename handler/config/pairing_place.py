"""Reads of the configuration what `keys --pair` needs: no secret, and no other file."""

from pathlib import Path
from typing import NamedTuple

from ..findings import ConfigError
from .load import parse_toml
from .server import read_server
from .sources import read_file


class PairingPlace(NamedTuple):
    """The handler's user, if one is named, the page's addresses, and sessions.dir."""

    user: str
    urls: tuple[str, ...]
    sessions_dir: str


def read_pairing_place(path: Path) -> PairingPlace:
    """Return it. Raises ConfigError for a file that can't be read, and for a fault in [server] or in sessions.dir."""
    top = parse_toml(read_file(path)[0], lambda _: "")
    server, directory = read_server(top), top.get_table("sessions").get_str("dir", "var/sessions")
    if top.problems:
        raise ConfigError(top.problems)
    return PairingPlace(server.user, server.urls, directory)
