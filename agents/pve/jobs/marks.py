"""The marks on an alert's capture that has ended, which say whether people were told of it, and who has seen it.

The marks are lines of a file beside the job's record. No verb reads them, and a full /run loses them alone.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress

TOLD, NOT_TOLD, SEEN = "told", "not-told", "seen"
MOST_SEEN = 20
_MOST_LINES = 100
_LINE_BYTES = 200


def read_marks(directory: str) -> dict[str, object]:
    """Return `told` and `seen` of a job; nothing for one that has no marks.

    `told` is `told`, or `not-told` if each try to send its message has failed so far.
    """
    lines = list(_lines(directory))
    seen = {by: {"by": by, "at": at} for mark, by, at in reversed(lines) if mark == SEEN}
    words = [mark for mark, _, _ in lines if mark != SEEN]
    found: dict[str, object] = {"seen": list(reversed(seen.values()))[:MOST_SEEN]} if seen else {}
    return found | ({"told": TOLD if TOLD in words else words[-1]} if words else {})


def _lines(directory: str) -> Iterator[tuple[str, str, str]]:
    try:
        with open(f"{directory}/marks", "rb") as file:
            text = file.read(_MOST_LINES * _LINE_BYTES)
    except OSError:
        return
    for line in text.splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a line that a full /run cut off
            found = json.loads(line)
            if found["mark"] in (TOLD, NOT_TOLD, SEEN):
                yield str(found["mark"]), str(found["by"]), str(found["at"])


def add_mark(directory: str, mark: str, by: str) -> None:
    """Add a mark to a job, but only one `seen` for each caller; raise OSError if the mark can't be written."""
    lines = [(other, who if other == SEEN else "") for other, who, _ in _lines(directory)]
    is_full = len(lines) >= _MOST_LINES - 1 or (mark == SEEN and sum(each == SEEN for each, _ in lines) >= MOST_SEEN)
    if (mark, by if mark == SEEN else "") in lines or (is_full and mark != TOLD):
        return
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"mark": mark, "by": by, "at": at}) + "\n"
    marks = os.open(f"{directory}/marks", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(marks, line.encode())  # in one step, so that two callers' lines never mix
    finally:
        os.close(marks)
    with suppress(FileNotFoundError):
        os.unlink(f"{directory}/archived")  # so that the job is copied again after the next job
