"""Remembers which turns each conversation had, so that its caller can list it and have it replayed.

A caller has a directory, and in it a file for each session: the VM on the first line, then one line for each turn. All
of it blocks. The turns themselves, and what was asked in each, are in `turns/` (store.py).
"""

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from ..base.text import plain_line
from .refusals import directory_of
from .sessions import is_sid
from .turn_requests import TurnRequest

MOST = 100  # conversations in a list
MOST_BYTES = 256 * 1024 * 1024  # of a caller's logs and prompts
WORDS = 120  # characters of the first question
_KEY = re.compile(r"[0-9a-f]{32}")
_LATEST = 1e11  # the year 5138
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe without a writer is empty


class TurnEntry(NamedTuple):
    """A turn of a conversation: its id, the name of its directory, when it began (Unix seconds), and its tools."""

    turn: str
    key: str
    at: float
    tools: str = ""


class Conversation(NamedTuple):
    """A session that a caller can continue. `words` are the beginning of the first question."""

    sid: str
    vm: str
    words: str
    turns: tuple[TurnEntry, ...]


def note_turn(conversations: Path, key: str, request: TurnRequest, now: float) -> None:
    """Add a turn to its conversation. The session's lock keeps others from doing so at once. Raises OSError."""
    directory = directory_of(conversations, request.caller)
    directory.mkdir(0o700, exist_ok=True)
    lines: list[object] = [TurnEntry(request.turn, key, now, request.tools)]
    if _read(directory / request.sid) is None:  # it is new, or its first line was lost
        lines.insert(0, {"vm": request.vm.name, "words": plain_line(request.typed)[:WORDS]})
    rest = "".join(json.dumps(line) + "\n" for line in lines).encode()
    fd = os.open(directory / request.sid, os.O_RDWR | os.O_CREAT | os.O_APPEND | _FLAGS, 0o600)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":  # the disk was full, or the machine went down
            rest = b"\n" + rest
        while rest:
            rest = rest[os.write(fd, rest) :]
    finally:
        os.close(fd)


def list_conversations(
    conversations: Path, caller: str, is_listed: Callable[[Conversation], bool] = lambda _: True
) -> list[Conversation]:
    """Return the newest conversations of a caller that `is_listed` lets through, the one with the newest turn first.

    A caller can have very many. So those are read first whose files were written last, and no more than needed.
    """
    found = islice(filter(is_listed, _read_all(directory_of(conversations, caller))), MOST)
    return sorted(found, key=lambda each: each.turns[-1].at, reverse=True)


def find_conversation(conversations: Path, caller: str, sid: str) -> Conversation | None:
    """Return one of a caller's conversations, or None if there is none with this id. Raises OSError."""
    return _read(directory_of(conversations, caller) / sid)


def prune_conversations(directory: Path, locks: Path, turns: Path) -> Iterator[Path]:
    """Forget the conversations in a caller's directory whose sessions are gone.

    Yield the directories of the oldest turns of the others, as many as take what is left below MOST_BYTES.
    """
    for path in list(directory.iterdir()):
        with suppress(OSError):  # it is no file, or another handler was first
            if not (locks / path.name).exists():
                path.unlink()
    logs = []
    for each in _read_all(directory):
        for entry in each.turns:
            with suppress(OSError):  # it was removed before
                logs.append((entry.at, size_of(turns / entry.key), turns / entry.key))
    left = sum(size for _, size, _ in logs)
    for _, size, turn_dir in sorted(logs):
        if left <= MOST_BYTES:
            return
        left -= size
        yield turn_dir


def size_of(turn_dir: Path) -> int:
    """Return the size of a turn's log and of what was asked. Raises OSError if there is no log."""
    size = (turn_dir / "log").stat().st_size
    with suppress(OSError):
        size += (turn_dir / "about.json").stat().st_size
    return size


def _read_all(directory: Path) -> Iterator[Conversation]:
    """Yield each conversation in a caller's directory that can be read, the one that was written last first."""
    files = []
    try:
        for each in os.scandir(directory):
            with suppress(OSError):
                if is_sid(each.name):
                    files.append((each.stat(follow_symlinks=False).st_mtime, each.name))
    except FileNotFoundError:
        return
    for _, name in sorted(files, reverse=True):
        with suppress(OSError):
            found = _read(directory / name)
            if found is not None:
                yield found


def _read(path: Path) -> Conversation | None:
    """Return a conversation, without the lines that are damaged; None if there is none. Raises OSError."""
    try:
        with open(os.open(path, os.O_RDONLY | _FLAGS), "rb") as file:
            data = file.read() if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except FileNotFoundError:
        return None
    lines = [_parse(line) for line in data.splitlines()]
    first = next((line for line in lines if isinstance(line, dict) and "vm" in line), None)
    turns = tuple(TurnEntry(*line) for line in lines if _is_entry(line))
    if first is None or not turns:
        return None
    return Conversation(path.name, str(first.get("vm")), str(first.get("words")), turns)


def _is_entry(line: object) -> TypeGuard[list[Any]]:
    if not isinstance(line, list) or list(map(type, line)) != [str, str, float, str]:
        return False
    return 0 <= line[2] < _LATEST and bool(_KEY.fullmatch(line[1]))  # that becomes a path, whose files are removed


def _parse(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
