"""claude's stream-json to our events (PROTOCOL section 3, POST /chat), one numbered JSON object a line.

Decides what a person is shown and what is said twice. Refuses nothing: whatever bytes come, it goes on, and `close`
always ends with `done`. What each line means is in the comments; it was observed with CLI 2.1.331.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..verbs import VERBS
from .failures import End, failure

LINE_BYTES = 16 * 1024 * 1024
RESULT_BYTES = 64 * 1024
WHY_CHARS = 2000

Event = dict[str, object]
Table = Mapping[str, Any]


class Framer:
    """Cuts a stream into lines. One longer than `limit` comes out as None: the line is lost, not what follows it."""

    def __init__(self, limit: int = LINE_BYTES) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """Return the lines that this chunk completes, without their ends."""
        *complete, rest = chunk.split(b"\n")
        lines = []
        for part in complete:
            self._keep(part)
            lines.append(None if self._size > self._limit else b"".join(self._parts))
            self._parts, self._size = [], 0
        self._keep(rest)
        return lines

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._limit:
            self._parts = []
        elif part:
            self._parts.append(part)


def encoded(event: Event) -> bytes:
    """Return the event as its line. Half a surrogate pair survives, as an escape."""
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"


def parsed(line: bytes) -> Table | None:
    """Return the JSON object that a line is, or None."""
    try:
        value = json.loads(line, parse_constant=_none, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _none(_: str) -> None:
    """Stand for NaN and Infinity, which Python reads and JSON has not."""


def _finite(text: str) -> float | None:
    value = float(text)
    return value if abs(value) < float("inf") else None


class Translator:
    """One turn: claude's lines in, numbered events out. `mint` makes a job id for each proposal."""

    def __init__(self, vm: str, mint: Callable[[], str], first: int = 1) -> None:
        self._vm, self._mint, self._next = vm, mint, first
        self._streamed: dict[tuple[str, int], int] = {}  # message, block: the number of its first text event
        self._message = ""  # the message that is streaming
        self._tools: dict[str, tuple[str, Table, str]] = {}  # those without a result: name, input, what was said
        self._said = ""  # the last block of text, for a proposal's `why`
        self._last: Table | None = None  # the newest result, and what all of them took
        self._took = {"num_turns": 0.0, "duration_ms": 0.0, "cost": 0.0}
        self._limits: Table = {}
        self._unsaved = False

    @property
    def in_tool(self) -> bool:
        """Tell whether claude is waiting for a tool, which may be silent for as long as it likes."""
        return bool(self._tools)

    def feed(self, line: bytes | None) -> list[Event]:
        """Return the events of one line; None is a line that was too long."""
        if line is None:
            return self._dropped()
        message = parsed(line)
        kind = message.get("type") if message is not None else None
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if message is None or read is None:  # unknown types appear with each version
            return []
        return list(read(self, message))

    def close(self, end: End) -> list[Event]:
        """Return the last events of a turn whose process has ended; `done` is the very last."""
        last = self._last
        error = failure(end, last, self._limits, self._unsaved)
        events = [self._result(last, error is None)] if last is not None else []
        if error is not None:
            events.append(self._event("error", **error))
        return [*events, self._event("done", ok=error is None)]

    # --- what claude's lines mean ---

    def _stream_event(self, message: Table) -> Iterable[Event]:
        event = _table(message, "event")
        if message.get("parent_tool_use_id"):  # a subagent's own words
            return
        if event.get("type") == "message_start":
            self._message = _text(_table(event, "message"), "id")
        elif event.get("type") == "content_block_delta":
            text = _text(_table(event, "delta"), "text")
            if text:
                index = event.get("index")
                block = (self._message, index if isinstance(index, int) else 0)
                self._said = text if block not in self._streamed else self._said + text
                self._streamed.setdefault(block, self._next)
                yield self._event("text", text=text)
        elif event.get("type") == "message_stop":
            yield from self._retracted(_table(message, "abandoned_blocks"))

    def _retracted(self, abandoned: Table) -> Iterable[Event]:
        """The stream broke and claude asks again: what was shown of it will be said once more."""
        whole, first = _text(abandoned, "api_message_id"), abandoned.get("from_block_index")
        gone = [b for b in self._streamed if b[0] == whole and isinstance(first, int) and b[1] >= first]
        if gone:
            yield self._event("text", retract=min(self._streamed.pop(block) for block in gone))

    def _assistant(self, message: Table) -> Iterable[Event]:
        if message.get("error"):  # an API failure, worded by the CLI: the result says it too
            return
        inner = _table(message, "message")
        repeats = any(name == _text(inner, "id") for name, _ in self._streamed)
        for block in _blocks(inner):
            if block.get("type") == "text" and not repeats and not message.get("parent_tool_use_id"):
                self._said = _text(block, "text")
                yield self._event("text", text=self._said)
            elif block.get("type") == "tool_use":
                tool, name, given = _text(block, "id"), _text(block, "name"), _table(block, "input")
                self._tools[tool] = (name, given, self._said)
                yield self._event("tool", id=tool, name=name, input=given)

    def _user(self, message: Table) -> Iterable[Event]:
        for block in _blocks(_table(message, "message")):  # its text blocks are the CLI's words, not the operator's
            if block.get("type") == "tool_result":
                yield from self._tool_result(_text(block, "tool_use_id"), not block.get("is_error"), _spelled(block))

    def _tool_result(self, tool: str, ok: bool, text: str) -> Iterable[Event]:
        name, given, said = self._tools.pop(tool, ("", {}, ""))
        raw = text.encode("utf-8", "surrogatepass")
        cut = {"cut": True} if len(raw) > RESULT_BYTES else {}
        shown = raw[:RESULT_BYTES].decode("utf-8", "ignore") if cut else text
        yield self._event("tool_result", id=tool, ok=ok, text=shown, **cut)
        verb = approval(name, given, ok, text)
        if verb is not None:
            why = (said.strip() or _text(given, "description"))[-WHY_CHARS:]
            yield self._event("approval", verb=verb, vm=self._vm, job=self._mint(), why=why)

    def _took_result(self, message: Table) -> Iterable[Event]:
        self._last = message  # several can come from one process: the turn ends with the process
        self._took["cost"] += _cost(message)
        for name in ("num_turns", "duration_ms"):
            self._took[name] += _number(message, name)
        return ()

    def _took_limits(self, message: Table) -> Iterable[Event]:
        self._limits = _table(message, "rate_limit_info")
        return ()

    def _system(self, message: Table) -> Iterable[Event]:
        self._unsaved = self._unsaved or message.get("subtype") == "session_writes_lost"
        return ()

    # --- making events ---

    def _event(self, kind: str, **fields: object) -> Event:
        number, self._next = self._next, self._next + 1
        return {"type": kind, "n": number, **fields}

    def _dropped(self) -> list[Event]:
        """Say that a line was too long; where a tool's result is awaited it can only have been that."""
        text = f"[a line of more than {LINE_BYTES} bytes was left out]"
        for tool in list(self._tools)[:1]:
            del self._tools[tool]
            return [self._event("tool_result", id=tool, ok=False, text=text, cut=True)]
        return [self._event("text", text=f"\n{text}\n")]

    def _result(self, last: Table, ok: bool) -> Event:
        text = _text(last, "result") if ok else ""
        turns, seconds = int(self._took["num_turns"]), self._took["duration_ms"] / 1000
        return self._event("result", ok=ok, text=text, turns=turns, seconds=seconds, cost_usd=self._took["cost"])


_READERS: dict[str, Callable[[Translator, Table], Iterable[Event]]] = {
    "stream_event": Translator._stream_event,
    "assistant": Translator._assistant,
    "user": Translator._user,
    "result": Translator._took_result,
    "rate_limit_event": Translator._took_limits,
    "system": Translator._system,
}


def approval(tool_name: str, tool_input: Table, ok: bool, text: str) -> str | None:
    """Return the verb that a tool call asks approval for, or None.

    It asks for one when it ran exactly `pve VERB` and the host ended that with exit 16. The output of any other command
    is not a request.
    """
    command = tool_input.get("command")
    if tool_name != "Bash" or ok or not isinstance(command, str):
        return None
    program, _, verb = command.strip().partition(" ")
    if program != "pve" or verb not in VERBS or not VERBS[verb].mutating:
        return None
    first, *rest = text.splitlines() or [""]
    return verb if first == "Exit code 16" and f"approval-required: {verb}" in rest else None


def _cost(result: Table) -> float:
    """Return what was spent since the last result; `total_cost_usd` counts every turn of the session."""
    models = _table(result, "model_usage_since_last_result")
    return float(sum(_number(usage, "costUSD") for usage in models.values() if isinstance(usage, dict)))


def _table(table: Table, key: str) -> Table:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def _text(table: Table, key: str) -> str:
    value = table.get(key)
    return value if isinstance(value, str) else ""


def _number(table: Table, key: str) -> float:
    """Return a number; none for one that no turn can have, which could not be added up."""
    value = table.get(key)
    sound = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return value if sound and value is not None else 0


def _blocks(message: Table) -> list[Table]:
    content = message.get("content")
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _spelled(block: Table) -> str:
    """Return a tool result's text; pictures and the like have none."""
    content = block.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(_text(part, "text") for part in _blocks(block) if part.get("type") == "text")
