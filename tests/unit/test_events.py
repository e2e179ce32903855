"""Our events from claude's lines: recorded transcripts with their expected events, each trap, and any bytes."""

import json
import re
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from breakglass.base.framer import Framer
from breakglass.base.text import first_sentence
from breakglass.chat.events import RESULT_BYTES, Event, Translator, parse_object
from breakglass.chat.failures import End
from breakglass.chat.job import encode_line

from ..support.any_json import any_objects, edited_objects
from ..support.rows import each_row, read_rows

TRANSCRIPTS = Path(__file__).parent.parent / "transcripts"
GOOD = End(0)
RESULT = {"type": "result", "subtype": "success", "is_error": False, "result": "fin", "num_turns": 1, "duration_ms": 1}


def translator() -> Translator:
    return Translator("devvm", lambda: "job_minted", first=2)


def translated(*messages: object, end: End = GOOD) -> list[Event]:
    """Return the events of some lines, each with its type and its own fields."""
    to_events = translator()
    lines = [json.dumps(message).encode() for message in messages]
    return [event for line in lines for event in to_events.feed(line)] + to_events.close(end)


def delta(text: str, block: int = 0) -> dict[str, object]:
    event = {"type": "content_block_delta", "index": block, "delta": {"type": "text_delta", "text": text}}
    return {"type": "stream_event", "event": event, "parent_tool_use_id": None}


def begin(message: str) -> dict[str, object]:
    return {"type": "stream_event", "event": {"type": "message_start", "message": {"id": message}}}


def assistant(message: str, *blocks: object, **more: object) -> dict[str, object]:
    return {"type": "assistant", "message": {"id": message, "content": blocks}, **more}


def text(words: str) -> dict[str, object]:
    return {"type": "text", "text": words}


def bash(tool: str, command: str = "pve status") -> dict[str, object]:
    given = {"command": command, "description": "look"}
    return {"type": "tool_use", "id": tool, "name": "Bash", "input": given}


def returned(tool: str, content: object, is_error: bool = False, **more: object) -> dict[str, object]:
    block = {"type": "tool_result", "tool_use_id": tool, "content": content, "is_error": is_error}
    return {"type": "user", "message": {"content": [block]}, **more}


# --- recorded ---


@each_row("path", sorted(TRANSCRIPTS.glob("*.jsonl")))
def test_a_recorded_turn(path: Path) -> None:
    """Each transcript of the real CLI becomes the events in the file beside it, however its bytes are split."""
    end = End(**json.loads(path.with_suffix(".end").read_text()))
    expected = [json.loads(line) for line in path.with_suffix(".events").read_text().splitlines()]
    for size in (7, 64 * 1024):
        to_events, framer, raw = translator(), Framer(), path.read_bytes()
        chunks = [raw[at : at + size] for at in range(0, len(raw), size)]
        found = [event for chunk in chunks for line in framer.feed(chunk) for event in to_events.feed(line)]
        assert found + to_events.close(end) == expected


# --- the traps ---


def test_a_tool_and_its_result() -> None:
    """A list of parts is joined without pictures. A text of more than 64 KiB is cut at a character and says so."""
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    tool, result, *_ = translated(assistant("m", bash("t1")), returned("t1", parts))
    assert tool == {"type": "tool", "n": 2, "id": "t1", "name": "Bash", "input": bash("t1")["input"]}
    assert result == {"type": "tool_result", "n": 3, "id": "t1", "ok": True, "text": "a\nb"}
    long, *_ = translated(returned("t2", "é" * RESULT_BYTES, is_error=True))
    assert (long["ok"], long["cut"], long["text"]) == (False, True, "é" * (RESULT_BYTES // 2))


def test_only_a_command_that_ran_proposes_and_only_once() -> None:
    """The approval has the VM, a job id that can't be guessed, and the words that led to it.

    The text of a result proposes nothing, whatever the guest has written into it. Nor does a turn that only looks,
    because no operator watches it.
    """
    ran = assistant("m", bash("t", "pve reset"))
    refused = returned("t", "Exit code 16\napproval-required: reset", is_error=True)
    events = translated(begin("m"), delta("it is "), delta("hung"), ran, refused, refused)
    [approval] = [event for event in events if event["type"] == "approval"]
    expected = {"verb": "reset", "vm": "devvm", "job": "job_minted", "why": "it is hung"}
    assert approval == {"type": "approval", "n": 6, **expected}
    assert "approval" not in [event["type"] for event in translated(refused)]
    looks = Translator("devvm", lambda: "job_minted", verbs=("status", "forensics", "history"))
    kinds = [event["type"] for each in (ran, refused) for event in looks.feed(json.dumps(each).encode())]
    assert kinds == ["tool", "tool_result"]


WHYS = {
    "Looked.\n\n1. Its disk hangs. So reset it.": "Its disk hangs.",
    "- Its disk hangs, e.g. sda. So reset it.": "Its disk hangs, e.g. sda.",
    "No. The guest\nhangs. Really.": "No. The guest hangs.",
    "It \u202ehangs\x1b[2J\u2069 here": "It hangs [2J here",
    'He said "it hangs." Then more': 'He said "it hangs."',
}


@each_row("text", WHYS)
def test_why_is_one_plain_sentence(text: str) -> None:
    """It has no list mark before it, is one line, and has no characters that reverse its letters."""
    assert first_sentence(text, 500) == WHYS[text]


def test_a_line_that_is_too_long_is_left_out() -> None:
    """The next line is read as usual. The tool's result, or otherwise the text, says that a line was left out."""
    framer = Framer(limit=10)
    assert framer.feed(b"x" * 8 + b"\n" + b"y" * 6) == [b"x" * 8]
    assert framer.feed(b"y" * 6 + b"\nz\n") == [None, b"z"]
    assert framer.feed(b"0123456789\n0123456789a\n") == [b"0123456789", None]
    to_events = translator()
    to_events.feed(json.dumps(assistant("m", bash("t"))).encode())
    [result], [note] = to_events.feed(None), to_events.feed(None)
    assert (result["type"], result["id"], result["ok"], result["cut"]) == ("tool_result", "t", False, True)
    assert note["type"] == "text"
    assert "left out" in str(note["text"])


# --- ends ---

TOLD = {**RESULT, "is_error": True, "api_error_status": None, "result": "", "terminal_reason": None}


@each_row(("said", "end", "code", "words"), read_rows("claude_ends.yaml")["ends"].values())
def test_every_failure_has_its_own_sentence(
    said: list[dict[str, Any]], end: dict[str, Any], code: str, words: str
) -> None:
    """Each failure has a code of the contract, the cause and the fix, and then `done`."""
    lines = [(TOLD if "told" in each else RESULT if "fine" in each else {}) | each for each in said]
    *_, error, done = translated(*lines, end=End(**end))
    assert (error["type"], error["code"]) == ("error", code)
    assert words in str(error["message"])
    assert error["hint"]
    assert done == {"type": "done", "n": error["n"] + 1, "ok": False}  # type: ignore[operator]


def test_a_result_is_judged_by_is_error() -> None:
    """The CLI gives an API failure the subtype "success". A stop after the last word stops nothing."""
    failed = {**RESULT, "is_error": True, "api_error_status": 529, "result": "Repeated 529"}
    assert translated(failed, end=End(1))[0]["ok"] is False
    result, done = translated(RESULT, end=End(0, stopped="cancelled"))
    assert (result["ok"], result["text"], done["ok"]) == (True, "fin", True)


# --- any bytes ---

KEYS = re.findall(
    r"\w+",
    "type event message content id index delta text input is_error tool_use_id name subtype result errors num_turns "
    "abandoned_blocks api_message_id from_block_index rate_limit_info model_usage_since_last_result costUSD "
    "duration_ms api_error_status resetsAt",
)
WORDS = ["stream_event", "assistant", "user", "result", "system", "rate_limit_event", "tool_use", "tool_result", "text"]
WORDS += ["message_start", "content_block_delta", "message_stop", "pve reset", "Exit code 16", "\ud800", ""]
RECORDED = [line for path in sorted(TRANSCRIPTS.glob("*.jsonl")) for line in path.read_text().splitlines()]
OBJECTS = any_objects(KEYS, WORDS) | edited_objects([line for line in RECORDED if line[:1] == "{"], KEYS)
LINES = OBJECTS.map(lambda value: json.dumps(value).encode())
DEEP = st.sampled_from([b"[" * 100_000, b'{"type":' * 50_000, b'{"type":"result","num_turns":' + b"9" * 5000 + b"}"])
ENDINGS = st.builds(End, st.integers(-64, 255), st.text(max_size=9), st.sampled_from(["", "cancelled"]))


@given(st.lists(st.binary(max_size=60) | LINES | DEEP, max_size=8), ENDINGS)
@settings(deadline=None)
def test_any_bytes_end_with_done(lines: list[bytes], end: End) -> None:
    """Any bytes lead to consecutive numbers, standard JSON and one last line, and never to an exception."""
    to_events, framer = translator(), Framer()
    events = [event for line in lines for each in framer.feed(line + b"\n") for event in to_events.feed(each)]
    events += to_events.close(end)
    assert [event["n"] for event in events] == list(range(2, 2 + len(events)))
    assert [event["type"] for event in events].index("done") == len(events) - 1
    for event in events:
        line = encode_line(event)
        assert line.count(b"\n") == 1
        assert parse_object(line) == event
        assert not {b"NaN", b"Infinity"} & set(line.replace(b":", b" ").replace(b",", b" ").split())
