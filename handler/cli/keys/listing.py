"""`breakglass keys list`: one line for each caller, without a secret, with the time of its last request."""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ...auth.signing import Caller, fingerprint
from ...base.times import rfc3339
from ...config.callers import AUTH_METHODS
from ...config.entries import NamedEntry
from ...config.load import load_callers
from ...config.own_files import texts_of
from ...config.pairing import PAIR_UNKNOWN, PAIRED, PAIRED_TWICE
from ...config.sources import own_file, read_sources
from ..output import DONE, FAILED, CommandError, reason, say, show_table
from .configuration import find_config

# --- The time of each caller's last request, from the handler's log (docs/logs.md) ---

_MOST_LINE_BYTES = 1 << 20  # the handler's longest line is far shorter
_OF_A_DEVICE = (PAIRED, PAIRED_TWICE, PAIR_UNKNOWN)  # events that name a caller whose key did not sign the request


class Usage(NamedTuple):
    """The time of the newest request of each caller, and of each key by its fingerprint, as in the log."""

    callers: dict[str, str]
    keys: dict[tuple[str, str], str]


def read_usage(file: str, names: Iterable[str]) -> Usage:
    """Read a log as a stream. `-` is standard input. Only callers in `names` are included.

    A line is a JSON object, with or without the prefix of journalctl. A damaged line is skipped. Raises CommandError if
    the file can't be read.
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
        if start < 0 or b'"caller"' not in line:  # only a line with an object and a caller needs parsing
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
    """Count a line of the event `request`, or of `alert`, which names no key."""
    time, key = str(note["time"]), note.get("key")
    usage.callers[name] = max(time, usage.callers.get(name, ""))
    if isinstance(key, str) and key:
        usage.keys[name, key] = max(time, usage.keys.get((name, key), ""))


# --- `breakglass keys list`: one line for each caller of the configuration, with no secret ---


@dataclass(frozen=True)
class Row:
    """The list's row for one caller. `disabled` is why its requests are refused, or empty."""

    name: str
    file: str
    method: str
    secrets: int
    allow: tuple[str, ...]
    vms: tuple[str, ...] | None
    not_after: datetime | None
    disabled: str
    keys: tuple[str, ...] = field(default=())


def keys_list(arguments: argparse.Namespace) -> int:
    """List the callers; with --log, show the time of each one's last request."""
    file = find_config(arguments)
    entries, callers = load_callers(read_sources(file, os.environ), os.environ)
    rows = [_row(file, each, callers.get(each.name)) for each in entries]
    usage = None if arguments.log is None else read_usage(arguments.log, [each.name for each in entries])
    now = datetime.now(UTC)
    if arguments.json:
        say(json.dumps({"file": str(file), "callers": [_as_json(row, usage, now) for row in rows]}))
    else:
        show_table([_as_line(row, usage, now) for row in rows])
    return DONE


def _row(config: Path, each: NamedEntry, caller: Caller | None) -> Row:
    name, entry, has_file = each
    table, file = entry.data, str(own_file(config, "callers", name) if has_file else config)
    if caller is not None:
        vms = None if caller.vms is None else tuple(sorted(caller.vms))
        keys = tuple(fingerprint(key) for key in caller.keys)
        allow = tuple(texts_of(table, "allow"))
        return Row(name, file, caller.auth_method, len(keys), allow, vms, caller.not_after, "", keys)
    found = [(key, method) for key, method in AUTH_METHODS.items() if key in table or f"{key}_file" in table]
    key, method = found[0] if len(found) == 1 else ("secret", "unclear")
    not_after = table.get("not_after")
    return Row(
        name,
        file,
        method,
        len(texts_of(table, key)) + len(texts_of(table, f"{key}_file")),
        tuple(texts_of(table, "allow")),
        tuple(texts_of(table, "vms")) if "vms" in table else None,
        not_after.replace(tzinfo=not_after.tzinfo or UTC) if isinstance(not_after, datetime) else None,
        "; ".join(f"{p.place.removeprefix(entry.path).lstrip('.: ')} {p.sentence}".strip() for p in entry.faults),
    )


def _as_json(row: Row, usage: Usage | None, now: datetime) -> dict[str, object]:
    end = row.not_after
    found: dict[str, object] = {"name": row.name, "file": row.file, "method": row.method, "secrets": row.secrets}
    found |= {"allow": list(row.allow), "vms": None if row.vms is None else list(row.vms)}
    found |= {"not_after": rfc3339(end.timestamp()) if end else None, "expired": bool(end and end < now)}
    found |= {"disabled": row.disabled, "keys": [{"key": key} for key in row.keys]}
    if usage is not None:
        found["last_used"] = usage.callers.get(row.name)
        found["keys"] = [{"key": key, "last_used": usage.keys.get((row.name, key))} for key in row.keys]
    return found


def _as_line(row: Row, usage: Usage | None, now: datetime) -> list[str]:
    count = f"{row.secrets} secret{'' if row.secrets == 1 else 's'}"
    words = [row.name, row.method, count, ",".join(row.allow) or "nothing"]
    words += ["all VMs" if row.vms is None else ",".join(row.vms) or "no VM", _expiry(row.not_after, now)]
    if usage is not None:
        words.append(_last_used(row, usage))
    return [*words, f"disabled: {row.disabled or 'its entry has an error'}" if not row.keys else ""]


def _expiry(end: datetime | None, now: datetime) -> str:
    if end is None:
        return "no expiry"
    if end <= now:
        return f"expired {end:%Y-%m-%d}"
    left = end - now
    return f"expires in {left.days} days" if left >= timedelta(days=2) else f"expires {end:%Y-%m-%d %H:%M}Z"


def _last_used(row: Row, usage: Usage) -> str:
    """Return the time of a caller's last request. If it has several secrets, one time per fingerprint."""
    if len(row.keys) < 2:
        return usage.callers.get(row.name, "not in this log")
    return ", ".join(f"{key} {usage.keys.get((row.name, key), 'not in this log')}" for key in row.keys)
