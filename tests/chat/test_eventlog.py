"""A turn's log: read from any event on while it grows, and completed by the first reader that finds no ending."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from breakglass.claude.eventlog import CHUNK, Reader, append_events, build_ending, finish_log, try_lock
from breakglass.claude.events import Event, encode_event, parse_object


@pytest.fixture
def log(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    yield fd
    os.close(fd)


def numbered(count: int, text: str = "x", first: int = 1) -> list[Event]:
    return [{"type": "text", "n": n, "text": text} for n in range(first, first + count)]


def everything(reader: Reader) -> bytes:
    found = b""
    while chunk := reader.more():
        assert len(chunk) <= CHUNK
        found += chunk
    return found


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 3 * CHUNK), max_size=6), after=st.integers(0, 10))
def test_a_reader_gives_every_line_from_a_number_on(log: int, sizes: list[int], after: int) -> None:
    """Whatever the lines' lengths, the pieces together are the lines after `after`, and then the last of all."""
    os.ftruncate(log, 0)
    lines = [encode_event({"type": "text", "n": n, "text": "y" * size}) for n, size in enumerate(sizes, 1)]
    lines.append(encode_event({"type": "done", "n": len(sizes) + 1, "ok": True}))
    os.write(log, b"".join(lines))
    reader = Reader(log, after)
    assert everything(reader) == b"".join(lines[min(after, len(lines) - 1) :])
    assert reader.ended
    assert reader.number == len(lines)


def test_a_reader_follows_a_log_that_grows(log: int) -> None:
    """The reader returns nothing while nothing is new, and then each line once."""
    reader = Reader(log, 1)
    assert everything(reader) == b""
    append_events(log, numbered(1))
    assert everything(reader) == b""
    append_events(log, numbered(2, first=2))
    assert everything(reader) == b"".join(map(encode_event, numbered(2, first=2)))
    assert (reader.ended, reader.number) == (False, 3)


def test_a_torn_line_is_not_read(log: int) -> None:
    """Half a line is not returned until its end is there."""
    line = encode_event({"type": "text", "n": 1, "text": "z" * 3 * CHUNK})
    reader = Reader(log, 0)
    for piece in (line[:10], line[10 : 2 * CHUNK], line[2 * CHUNK : -1]):
        os.write(log, piece)
        assert everything(reader) == b""
    os.write(log, line[-1:])
    assert everything(reader) == line


def test_a_log_without_an_end_is_given_one(log: int, tmp_path: Path) -> None:
    """A torn line is removed, the numbers go on, and a second call adds nothing."""
    append_events(log, numbered(2))
    os.write(log, b'{"type":"text","n":3,"te')
    assert finish_log(str(tmp_path / "log"), "claude-crashed", "cut off", "again")
    assert finish_log(str(tmp_path / "log"), "claude-crashed", "cut off", "again")
    expected = [*numbered(2), *build_ending("claude-crashed", "cut off", "again", 3)]
    assert (tmp_path / "log").read_bytes() == b"".join(map(encode_event, expected))


def test_a_locked_log_is_left_alone(log: int, tmp_path: Path) -> None:
    """While its writer lives, no ending is added; a text that looks like an ending is none."""
    assert try_lock(log)
    append_events(log, [{"type": "text", "n": 1, "text": '\n{"type":"done","n":1,"ok":true}\n'}])
    assert not finish_log(str(tmp_path / "log"), "claude-crashed", "cut off", "again")
    reader = Reader(log, 0)
    assert len(everything(reader).splitlines()) == 1
    assert not reader.ended
    fcntl.flock(log, fcntl.LOCK_UN)
    assert finish_log(str(tmp_path / "log"), "claude-crashed", "cut off", "again")
    assert parse_object((tmp_path / "log").read_bytes().splitlines()[-1]) == {"type": "done", "n": 3, "ok": False}
