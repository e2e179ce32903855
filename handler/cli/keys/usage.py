"""When callers were last heard of, from the handler's log: docs/logs.md."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ...pairing import PAIR_UNKNOWN, PAIRED, PAIRED_TWICE
from ..errors import CommandError, reason
from ..output import FAILED

_MOST_LINE_BYTES = 1 << 20  # the handler's longest line is far shorter
_OF_A_DEVICE = (PAIRED, PAIRED_TWICE, PAIR_UNKNOWN)  # it names a caller, and has not signed as it


class Usage(NamedTuple):
    """The time of the newest request of each caller, and of each of its keys by fingerprint, as the log writes it."""

    callers: dict[str, str]
    keys: dict[tuple[str, str], str]


def read_usage(file: str, names: Iterable[str]) -> Usage:
    """Read a log as a stream; `-` is standard input. Other callers than `names` are left out.

    A line is a JSON object, with or without the text that journalctl puts before it. A damaged line is skipped. Raises
    CommandError for a file that can't be read.
    """
    try:
        if file == "-":
            return _read(sys.stdin.buffer, frozenset(names))
        with Path(file).open("rb") as opened:
            return _read(opened, frozenset(names))
    except OSError as error:
        raise CommandError(f'--log: can\'t read "{file}": {reason(error)}', "name the handler's log", FAILED) from None


def _read(log: BinaryIO, names: frozenset[str]) -> Usage:
    usage = Usage({}, {})
    while line := log.readline(_MOST_LINE_BYTES):
        start = line.find(b"{")
        if start < 0 or b'"caller"' not in line:  # nearly every line of a large log has one: parse no others
            continue
        try:
            note = json.loads(line[start:])
        except (ValueError, RecursionError):
            continue
        name, time = (note.get("caller"), note.get("time")) if isinstance(note, dict) else (None, None)
        if (
            isinstance(name, str)
            and name in names
            and isinstance(time, str)
            and note.get("outcome") not in _OF_A_DEVICE
        ):
            _add(usage, name, note)
    return usage


def _add(usage: Usage, name: str, note: dict[str, object]) -> None:
    """Take a line of `request`, or of `alert`, which names no key."""
    time, key = str(note["time"]), note.get("key")
    usage.callers[name] = max(time, usage.callers.get(name, ""))
    if isinstance(key, str) and key:
        usage.keys[name, key] = max(time, usage.keys.get((name, key), ""))
