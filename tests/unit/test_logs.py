"""docs/logs.md and the code name the same events, and a log that loses lines says how many."""

import ast
import json
import os
import re
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from breakglass.alerts.rules import Capture
from breakglass.base import audit
from breakglass.config.model import Vm
from breakglass.web.alert import _status
from breakglass.web.client_headers import client_address

from ..support.rows import each_row, read_rows
from ..support.sentences import walk

ROOT = Path(__file__).parent.parent.parent
WRITERS = ("note", "note_at_once", "log_line", "as_line")
SUMMARY = ["vms", "callers", "problems", "warnings"]  # of a configuration
ROW = re.compile(r"\| `([a-z-]+)` \| (info|warning|error) \| .* \| ((?:`\w+` ?)+) \|")


@cache
def documented() -> dict[str, tuple[str, list[str]]]:
    """Return the level and the fields of each event in the document's table."""
    lines = (ROOT / "docs/logs.md").read_text("utf-8").splitlines()
    rows = [match for line in lines if (match := ROW.fullmatch(line))]
    return {row[1]: (row[2], re.findall(r"\w+", row[3])) for row in rows}


@cache
def written() -> dict[str, list[list[str]]]:
    """Return the fields of each place in the handler that writes a line, by the event's name."""
    found: dict[str, list[list[str]]] = {}
    for path in (ROOT / "handler").rglob("*.py"):
        for node in walk(ast.parse(path.read_text("utf-8"))):
            if (
                not isinstance(node, ast.Call)
                or getattr(node.func, "attr", getattr(node.func, "id", "")) not in WRITERS
            ):
                continue
            names = [literal.value for literal in walk(node.args[0]) if isinstance(literal, ast.Constant)]
            fields = [field for keyword in node.keywords for field in ([keyword.arg] if keyword.arg else SUMMARY)]
            for name in names:
                if isinstance(name, str) and re.fullmatch(r"[a-z-]{4,}", name):
                    found.setdefault(name, []).append(fields)
    return found


@pytest.mark.slow
def test_the_document_has_every_event_and_field() -> None:
    """The table, the code's list of levels, and the places that write lines name the same events and fields."""
    assert {name: level for name, (level, _) in documented().items()} == audit.EVENTS
    assert set(written()) == set(audit.EVENTS)
    beside = ("request", "lines-lost")  # which are given as a dictionary
    for name, places in written().items():
        for fields in places if name not in beside else ():
            assert fields == documented()[name][1], name


def test_each_example_has_the_fields_of_its_event() -> None:
    """Each example in the document has the level and the fields of the table, in their order."""
    lines = [json.loads(line) for line in (ROOT / "docs/logs.md").read_text("utf-8").splitlines() if line[:1] == "{"]
    found = {line["event"]: (line["level"], list(line)) for line in lines}
    wanted = {name: (level, ["time", "level", "event", *fields]) for name, (level, fields) in documented().items()}
    assert "request" in found
    assert found.items() <= wanted.items()


# --- the client's address ---

PROXIES = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


def seen(peer: str | None, *forwarded: str) -> tuple[str, str]:
    headers = [(b"x-forwarded-for", text.encode("latin-1")) for text in forwarded]
    return client_address({"client": (peer, 1) if peer else None, "headers": headers}, PROXIES)


@each_row(("sent", "wanted"), read_rows("headers.yaml")["clients"].values())
def test_the_right_most_address_that_is_no_proxys_counts(sent: list[str], wanted: list[str]) -> None:
    """A peer that is not a proxy is the client, whatever its headers say."""
    assert seen(*sent) == tuple(wanted)


# --- lost lines ---


@pytest.fixture
def empty_log() -> None:
    """No line of another test waits in this process, and none is lost."""
    while audit._waiting.qsize():
        audit._waiting.get()
    audit._lost.add(-audit._lost.count)


@pytest.mark.usefixtures("empty_log")
def test_a_host_cannot_choose_how_long_a_line_is() -> None:
    """Nor can it put objects into one. journald cuts a long line, and the second part could pose as a separate line."""
    posing = {"code": [{"time": "2026-11-27T03:12:09Z", "event": "x" * 100_000}]}
    capture = Capture("devvm", "alert-1", 60, "")
    vm = Vm("devvm", 102, ())
    failed = _status(vm, capture, {"exit_code": 1, "outcome": "failed", "verdict": posing})
    attached = _status(vm, capture, {"exit_code": 0, "outcome": "done", "job": posing})
    audit.begin("", "")
    audit.add(verdict=posing)
    audit.request(0.0, "failed")
    audit.begin("", "")
    audit.note("alert", source="", caller="", taken=[], failed=[failed, attached], ignored=0)
    for _ in range(2):
        line = audit._waiting.get_nowait()
        assert line is not None
        assert len(line) < 1000
        assert line.count(b'{"time"') == 1


def lines_of(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


@pytest.mark.usefixtures("empty_log")
def test_lost_lines_are_counted_and_said(tmp_path: Path) -> None:
    """Lines that a full queue drops are counted. Before the next line, one line says how many were lost."""
    path = tmp_path / "log"
    log = audit.Writer(os.open(path, os.O_WRONLY | os.O_CREAT))
    most = audit._waiting.maxsize
    for number in range(most + 7):
        audit.note("own-agent-unreadable", error=number)
    log.start()
    audit._waiting.put(audit.as_line("own-agent-unreadable", {"error": "after"}))  # it waits until there is room
    audit._waiting.put(None)
    log.join()
    os.close(log._fd)
    first, *others = lines_of(path.read_bytes())
    assert (first["event"], first["count"]) == ("lines-lost", 7)
    assert [line["error"] for line in others] == [*range(most), "after"]


@pytest.mark.usefixtures("empty_log")
def test_lines_that_a_full_disk_lost_are_said() -> None:
    """A line that could not be written is counted, until one can be."""
    log = audit.Writer(os.open("/dev/full", os.O_WRONLY))
    for _ in range(3):
        audit.note("own-agent-unreadable", error="lost")
    audit._waiting.put(None)
    log.run()
    os.close(log._fd)
    reader, log._fd = os.pipe()
    audit.note("own-agent-unreadable", error="after")
    audit._waiting.put(None)
    log.run()
    os.close(log._fd)
    with open(reader, "rb") as pipe:
        lines = lines_of(pipe.read())
    assert [(line["event"], line.get("count", line.get("error"))) for line in lines] == [
        ("lines-lost", 3),
        ("own-agent-unreadable", "after"),
    ]
