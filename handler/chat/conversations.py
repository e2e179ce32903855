"""Remembers which turns each conversation had, so that its caller can list it and have it replayed.

A caller has a directory, and in it a file for each session: the VM on the first line, then one line for each turn. All
of it blocks. The turns themselves, and what was asked in each, are in `turns/` (store.py).
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from ..claude.command import TurnRequest
from .sessions import is_sid

MOST = 100  # conversations in a list
MOST_BYTES = 256 * 1024 * 1024  # of a caller's logs
WORDS = 120  # characters of the first question
_KEY = re.compile(r"[0-9a-f]{32}")


class Said(NamedTuple):
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
    turns: tuple[Said, ...]


def note_turn(conversations: Path, key: str, request: TurnRequest, now: float) -> None:
    """Add a turn to its conversation. The session's lock keeps others from doing so at once. Raises OSError."""
    directory = _directory_of(conversations, request.caller)
    directory.mkdir(0o700, exist_ok=True)
    fd = os.open(directory / request.sid, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        lines: list[object] = [Said(request.turn, key, now, request.tools)]
        size = os.fstat(fd).st_size
        if not size:
            lines.insert(0, {"vm": request.vm.name, "words": " ".join(request.asked[: 10 * WORDS].split())[:WORDS]})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        if size and os.pread(fd, 1, size - 1) != b"\n":  # the disk was full, or the machine went down
            text = "\n" + text
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def list_conversations(conversations: Path, caller: str) -> list[Conversation]:
    """Return a caller's conversations, the one with the newest turn first."""
    found = [*_read_all(_directory_of(conversations, caller))]
    return sorted(found, key=lambda each: each.turns[-1].at, reverse=True)


def find_conversation(conversations: Path, caller: str, sid: str) -> Conversation | None:
    """Return one of a caller's conversations, or None if there is none with this id. Raises OSError."""
    return _read(_directory_of(conversations, caller) / sid)


def prune_conversations(directory: Path, locks: Path, turns: Path) -> Iterator[Path]:
    """Forget the conversations in a caller's directory whose sessions are gone.

    Yield the directories of the oldest turns of the others, as many as take their logs below MOST_BYTES.
    """
    for path in list(directory.iterdir()):
        if not (locks / path.name).exists():
            path.unlink(missing_ok=True)
    logs = []
    for each in _read_all(directory):
        for said in each.turns:
            with suppress(OSError):  # it was removed before
                logs.append((said.at, (turns / said.key / "log").stat().st_size, turns / said.key))
    left = sum(size for _, size, _ in logs)
    for _, size, turn_dir in sorted(logs):
        if left <= MOST_BYTES:
            return
        left -= size
        yield turn_dir


def _directory_of(conversations: Path, caller: str) -> Path:
    return conversations / hashlib.sha256(caller.encode()).hexdigest()[:32]


def _read_all(directory: Path) -> Iterator[Conversation]:
    """Yield each conversation in a caller's directory that can be read."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return
    for name in filter(is_sid, names):
        with suppress(OSError):
            found = _read(directory / name)
            if found is not None:
                yield found


def _read(path: Path) -> Conversation | None:
    """Return a conversation, without the lines that are damaged; None if there is none. Raises OSError."""
    try:
        first, *lines = [_parse(line) for line in path.read_bytes().splitlines()] or [None]
    except FileNotFoundError:
        return None
    turns = tuple(Said(*line) for line in lines if _is_said(line))
    if not isinstance(first, dict) or not turns:
        return None
    return Conversation(path.name, str(first.get("vm")), str(first.get("words")), turns)


def _is_said(line: object) -> TypeGuard[list[Any]]:
    if not isinstance(line, list) or list(map(type, line)) != [str, str, float, str]:
        return False
    return bool(_KEY.fullmatch(line[1]))  # it becomes a path, of which the files are removed


def _parse(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
