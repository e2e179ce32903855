"""Checks each line that a turn sends: events in order, pieces of its transcript, questions to the host."""

import json
import re
from collections.abc import Callable, Mapping, Sequence

from ..agents.pve.words import MUTATING
from ..base.verbs import PROPOSAL_ID
from .failures import Table
from .job import TRANSCRIPT_BYTES, Line, Piece, decode_piece, encode_line
from .request import Proposal
from .store import Batch

EVENT_BYTES = 64 << 20
MOST_PARTS = 1 << 17  # the most commas, colons, brackets and quotes in a line, because each takes time to parse
PIECE_COST = 4096  # the least bytes that count for a piece of the transcript, because each piece takes a row and time
_MOST_AMOUNT = 1e12  # the most tokens or dollars that one turn can report
_NO_PART = bytes(set(range(256)) - set(b',:"[]{}'))
_JOB = re.compile(rf"{PROPOSAL_ID}[0-9a-f]{{24}}", re.ASCII)
_CODE = re.compile(r"[a-z]+(-[a-z]+)*", re.ASCII)
_NUMBER = (int, float)
_FIELDS: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "text": {},
    "tool": {"id": str, "name": str, "input": dict},
    "tool_result": {"id": str, "ok": bool, "text": str},
    "approval": {"verb": str, "vm": str, "job": str, "why": str},
    "result": {"ok": bool, "text": str, "turns": int, "seconds": _NUMBER, "cost_usd": _NUMBER, "tokens": dict},
    "error": {"code": str, "message": str, "hint": str},
    "done": {"ok": bool},
}


class Misbehavior(Exception):
    """The turn sent something that a correct turn never sends."""


def parse_line(line: bytes) -> Table:
    """Return the object in a line. Raises ValueError if any client could fail to read it as one object."""
    if len(line.translate(None, _NO_PART)) > MOST_PARTS:
        raise ValueError("a line with too many parts")
    if not line.isascii() or b"\r" in line:  # some clients end a line at these characters
        raise ValueError("not in the alphabet that a turn uses")
    try:
        value = json.loads(line.decode(), parse_constant=_refuse)
    except RecursionError:
        raise ValueError("too deep") from None
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


class TurnOutput:
    """What a turn has sent. `number` is the next event's number, `last` the end of the turn, once it has arrived.

    The end is kept back until the turn's program has ended. `code` is `ok` or the code of the turn's error. `tokens`
    and `cost` are what the turn spent. `ask` is called with each question to the host and its number. `get_last`
    returns the last job of the VM that the turn saw, or an empty text. A proposal is valid while that job is the VM's
    last one.
    """

    def __init__(
        self,
        vm: str,
        verbs: Sequence[str],
        transcript: int,
        ask: Callable[[int, str], None],
        get_last: Callable[[], str],
    ) -> None:
        self.number = 2
        self.code, self.cost, self.tokens = "ok", 0.0, dict[str, float]()
        self.last: list[tuple[int, bytes]] = []
        self._vm, self._verbs, self._ask, self._get_last = vm, verbs, ask, get_last
        self._size, self._saved, self._transcript = 0, 0, transcript
        self._events: list[tuple[int, bytes]] = []
        self._pieces: list[Piece] = []
        self._proposals: list[Proposal] = []

    def pop(self) -> Batch:
        """Return what must be stored now, and forget it."""
        batch = Batch(self._events, self._pieces, self._proposals)
        self._events, self._pieces, self._proposals = [], [], []
        return batch

    def take(self, line: bytes | None) -> None:
        """Take a line; None stands for one that is too long. Raises Misbehavior."""
        if line is None:
            raise Misbehavior("it sent a line that is too long")
        if self.last:
            raise Misbehavior("it sent a line after its last event")
        try:
            message = parse_line(line)
            if "type" in message:
                self._take_event(message, line)
            elif "pve" in message:
                self._take_question(message)
            else:
                self._take_piece(message)
        except ValueError as error:
            raise Misbehavior(f"it sent a line that no turn sends: {error}") from None

    def _take_event(self, event: Table, line: bytes) -> None:
        kind, number = event["type"], event.get("n")
        if not isinstance(kind, str) or kind not in _FIELDS or type(number) is not int or number != self.number:
            raise ValueError("an event of no known type, or out of order")
        if kind == "text" and not isinstance(event.get("text"), str) and type(event.get("retract")) is not int:
            raise ValueError("a text without text")
        if not all(isinstance(event.get(name), kinds) for name, kinds in _FIELDS[kind].items()):
            raise ValueError(f"half of an event {kind}")
        self._size += len(line)
        if self._size > EVENT_BYTES:
            raise Misbehavior("its events reached their size limit")
        self._note(kind, event)
        if kind == "approval":
            line = encode_line({**event, "last": self._get_last()})[:-1]
        if kind == "done":
            self.last.append((number, line + b"\n"))
        else:
            self.number += 1
            self._events.append((number, line + b"\n"))

    def _note(self, kind: str, event: Table) -> None:
        """Remember the parts of an event that the handler needs."""
        if kind == "approval":
            if event["vm"] != self._vm or event["verb"] not in self._verbs or event["verb"] not in MUTATING:
                raise ValueError("a proposal that it is not allowed to make")
            if not _JOB.fullmatch(event["job"]):
                raise ValueError("a proposal without an id")
            self._proposals.append({"verb": event["verb"], "job": event["job"], "last": self._get_last()})
        elif kind == "error":
            if not _CODE.fullmatch(event["code"]):
                raise ValueError("an error without a code")
            self.code = event["code"]
        elif kind == "result":
            self.cost = _amount(event["cost_usd"])
            self.tokens = {str(name): _amount(count) for name, count in event["tokens"].items()}

    def _take_question(self, message: Table) -> None:
        number, line = message["pve"], message.get("line")
        if type(number) is not int or not 0 <= number < 2**53 or not isinstance(line, str):
            raise ValueError("no question")
        self._ask(number, line)

    def _take_piece(self, message: Line) -> None:
        piece = decode_piece(message)
        end = piece.at + len(piece.data)
        if piece.at not in (0, self._transcript) or end > TRANSCRIPT_BYTES:
            raise ValueError("a piece of a transcript has the wrong position")
        self._saved += max(len(piece.data), PIECE_COST)
        if self._saved > 4 * TRANSCRIPT_BYTES:
            raise Misbehavior("the pieces of its transcript reached their size limit")
        self._transcript = end
        self._pieces.append(piece)


def _amount(value: object) -> float:
    is_valid = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= _MOST_AMOUNT
    return float(value) if is_valid and isinstance(value, int | float) else 0.0
