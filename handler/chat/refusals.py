"""Stores the turns that were refused: one small file each, in the place of the turn's directory.

The file has the turn's metadata on its first line and then its events. It has a second name in a directory of its
caller, which counts them: the newest stay, so that a caller fills no disk. All of it blocks.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..claude.events import Event, encode_event

KEEP = 200  # of a caller


def directory_of(parent: Path, caller: str) -> Path:
    """Return a caller's directory in another one."""
    return parent / hashlib.sha256(caller.encode()).hexdigest()[:32]


def save_refusal(refused: Path, caller: str, path: Path, metadata: Mapping[str, str], events: Sequence[Event]) -> bool:
    """Save a refusal under its turn's path unless that exists, and tell whether; forget the caller's oldest ones.

    A link is made only where there is nothing, and a turn's directory can't be renamed onto a file. So of two replicas
    one wins, whether it starts the turn or refuses it.
    """
    if path.exists():
        return False
    directory = directory_of(refused, caller)
    directory.mkdir(0o700, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=directory)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(b"".join([json.dumps(metadata).encode() + b"\n", *map(encode_event, events)]))
        os.link(name, path)
    except BaseException as error:
        os.unlink(name)
        if isinstance(error, FileExistsError):  # another replica was first
            return False
        raise
    for each in sorted(_list_refusals(directory), reverse=True)[KEEP:]:
        _forget(each[1], path.parent)
    return True


def read_refusal(path: Path) -> tuple[dict[str, str], list[bytes]] | None:
    """Return the metadata and the events of a refused turn, or None for any other."""
    try:
        metadata, *lines = path.read_bytes().splitlines(keepends=True)
    except (FileNotFoundError, IsADirectoryError):
        return None
    return json.loads(metadata), lines


def prune_refusals(directory: Path, turns: Path, before: float) -> None:
    """Forget the refusals of a caller that are older than a time."""
    for written, path in _list_refusals(directory):
        if written < before:
            _forget(path, turns)


def _list_refusals(directory: Path) -> list[tuple[float, Path]]:
    found = []
    for each in os.scandir(directory):
        try:
            found.append((each.stat().st_mtime, Path(each)))
        except FileNotFoundError:  # another replica forgot it
            pass
    return found


def _forget(path: Path, turns: Path) -> None:
    """Remove both names of a refusal."""
    turn = turns / path.name.partition(".")[0]
    try:
        if turn.samefile(path):
            turn.unlink()
    except FileNotFoundError:  # another replica was first
        pass
    path.unlink(missing_ok=True)
