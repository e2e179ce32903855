"""How much a host may send: the memory of a line, the limits of a session, and the pause after a flood."""

import json

from breakglass.base.allowance import ANSWER_BYTES, LINE_BYTES, TOO_LONG, UNASKED, UNASKED_BYTES, Allowance, weight

from ..support.rows import each_row

MIB = 1024 * 1024


@each_row("text", ["x", "[1,{2}],", '"', "\\", '\\"', "\x1b[0m", "\u0416", "\U0001f600"])
def test_a_text_weighs_what_it_has(text: str) -> None:
    """A console can show any text, so its brackets, commas, quotes and backslashes count only as bytes."""
    message = {"type": "output", "text": text * (MIB // 8), "last": "x\\"}
    line = json.dumps(message).encode()
    assert len(line) < weight(line) < len(line) + 1000


@each_row("piece", [b"[],", b"{},", b'{"a":0},', b"0,", b'"",', b"[", b'{"a":'])
def test_a_line_of_many_values_is_too_heavy(piece: bytes) -> None:
    """A line that would cost hundreds of MiB and a second is recognised before it is parsed."""
    assert weight(b"[" + piece * (LINE_BYTES // len(piece))) > ANSWER_BYTES


def test_an_answer_and_what_was_not_asked_for_have_limits() -> None:
    """Each answer has its own limit. Lines that no request asked for have one that is renewed after a minute."""
    allowance = Allowance()
    assert [allowance.use("1", ANSWER_BYTES, 0.0), allowance.use("2", ANSWER_BYTES, 0.0)] == ["", ""]
    assert allowance.use("1", 1, 0.0) == TOO_LONG
    allowance.end("1")
    assert allowance.use("1", ANSWER_BYTES, 0.0) == ""
    assert [allowance.use("", UNASKED_BYTES, now) for now in (0.0, 61.0)] == ["", ""]
    assert allowance.use("", 1, 62.0) == UNASKED


def test_all_answers_of_a_session_have_a_limit_together() -> None:
    """A host that begins many answers at once can't fill the memory."""
    allowance = Allowance()
    assert [allowance.use(str(tag), ANSWER_BYTES, 0.0) for tag in range(1, 6)] == [*[""] * 4, TOO_LONG]
