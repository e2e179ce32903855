"""Translates claude's stream-json into our events (docs/api.md, POST /chat): numbered JSON objects, one a line.

The translator decides what a person sees and drops repeated text. It never fails on input, because it skips lines that
it can't read, and `close` always ends with `done`. The comments say what each line meant in tests with CLI 2.1.331.
"""

import json
from collections.abc import Callable, Iterable, Sequence

from ..base.framer import LINE_BYTES
from ..base.text import first_sentence
from ..base.verbs import VERBS
from .failures import End, Table, describe_failure

RESULT_BYTES = 64 * 1024
WHY_CHARS = 500
TOKENS = {  # our kinds of tokens, with the CLI's names for them
    "input": "inputTokens",
    "output": "outputTokens",
    "cache_read": "cacheReadInputTokens",
    "cache_write": "cacheCreationInputTokens",
}

Event = dict[str, object]


def parse_object(line: bytes) -> Table | None:
    """Return the JSON object of a line, or None if the line is no object."""
    try:
        value = json.loads(line, parse_constant=_none, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _none(_: str) -> None:
    """Replace NaN and Infinity by None, because Python accepts them although JSON does not."""


def _finite(text: str) -> float | None:
    value = float(text)
    return value if abs(value) < float("inf") else None


class Translator:
    """Translates the lines of one turn into numbered events.

    `new_job_id` makes the id of each proposal; only `verbs` can be proposed.
    """

    def __init__(
        self, vm: str, new_job_id: Callable[[], str], first: int = 1, verbs: Sequence[str] = tuple(VERBS)
    ) -> None:
        self._vm, self._new_job_id, self._next, self._verbs = vm, new_job_id, first, verbs
        self._streamed: dict[tuple[str, int], int] = {}  # message, block: the number of its first text event
        self._message = ""  # the message that is streaming
        # tools that have no result yet: name, input, and the text before the call
        self._tools: dict[str, tuple[str, Table, str]] = {}
        self._last_text = ""  # the last block of text, for a proposal's `why`
        self._newest_result: Table | None = None
        self._totals = {"num_turns": 0.0, "duration_ms": 0.0, "cost": 0.0}
        self._tokens = dict.fromkeys(TOKENS, 0.0)
        self._limits: Table = {}
        self._unsaved = False

    @property
    def in_tool(self) -> bool:
        """Whether claude is waiting for a tool. A tool may be silent for any length of time."""
        return bool(self._tools)

    def feed(self, line: bytes | None) -> list[Event]:
        """Return the events of one line. None stands for a line that was too long."""
        if line is None:
            return self._report_dropped_line()
        message = parse_object(line)
        kind = message.get("type") if message is not None else None
        read = _READERS.get(kind) if isinstance(kind, str) else None
        if message is None or read is None:  # new versions of the CLI add unknown types
            return []
        return list(read(self, message))

    def close(self, end: End) -> list[Event]:
        """Return the last events of a turn whose process has ended. `done` is the last one."""
        last = self._newest_result
        error = describe_failure(end, last, self._limits, self._unsaved)
        events = [self._result_event(last, error is None)] if last is not None else []
        if error is not None:
            events.append(self._event("error", **error._asdict()))
        return [*events, self._event("done", ok=error is None)]

    # --- what claude's lines mean ---

    def _read_stream_event(self, message: Table) -> Iterable[Event]:
        event = _table(message, "event")
        if message.get("parent_tool_use_id"):  # the words of a subagent
            return
        if event.get("type") == "message_start":
            self._message = _text(_table(event, "message"), "id")
        elif event.get("type") == "content_block_delta":
            text = _text(_table(event, "delta"), "text")
            if text:
                index = event.get("index")
                block = (self._message, index if isinstance(index, int) else 0)
                self._last_text = text if block not in self._streamed else self._last_text + text
                self._streamed.setdefault(block, self._next)
                yield self._event("text", text=text)
        elif event.get("type") == "message_stop":
            yield from self._retract(_table(message, "abandoned_blocks"))

    def _retract(self, abandoned: Table) -> Iterable[Event]:
        """Retract the text of a broken stream: claude asks the model again and will repeat it."""
        whole, first = _text(abandoned, "api_message_id"), abandoned.get("from_block_index")
        gone = [b for b in self._streamed if b[0] == whole and isinstance(first, int) and b[1] >= first]
        if gone:
            yield self._event("text", retract=min(self._streamed.pop(block) for block in gone))

    def _read_assistant(self, message: Table) -> Iterable[Event]:
        if message.get("error"):  # the CLI describes an API failure here, and again in the result
            return
        inner = _table(message, "message")
        repeats = any(name == _text(inner, "id") for name, _ in self._streamed)
        for block in _blocks(inner):
            if block.get("type") == "text" and not repeats and not message.get("parent_tool_use_id"):
                self._last_text = _text(block, "text")
                yield self._event("text", text=self._last_text)
            elif block.get("type") == "tool_use":
                tool, name, given = _text(block, "id"), _text(block, "name"), _table(block, "input")
                self._tools[tool] = (name, given, self._last_text)
                yield self._event("tool", id=tool, name=name, input=given)

    def _read_user(self, message: Table) -> Iterable[Event]:
        # the CLI wrote the text blocks of such a message, not the operator
        for block in _blocks(_table(message, "message")):
            if block.get("type") == "tool_result":
                yield from self._read_tool_result(block)

    def _read_tool_result(self, block: Table) -> Iterable[Event]:
        tool, ok, text = _text(block, "tool_use_id"), not block.get("is_error"), _result_text(block)
        name, given, text_before = self._tools.pop(tool, ("", {}, ""))
        raw = text.encode("utf-8", "surrogatepass")
        cut = {"cut": True} if len(raw) > RESULT_BYTES else {}
        shown = raw[:RESULT_BYTES].decode("utf-8", "ignore") if cut else text
        yield self._event("tool_result", id=tool, ok=ok, text=shown, **cut)
        verb = find_proposed_verb(name, given, ok, text)
        if verb in self._verbs:
            why = first_sentence(text_before.strip() or _text(given, "description"), WHY_CHARS)
            yield self._event("approval", verb=verb, vm=self._vm, job=self._new_job_id(), why=why)

    def _read_result(self, message: Table) -> Iterable[Event]:
        self._newest_result = message  # one process can send several results, and the turn ends when the process ends
        self._totals["cost"] += _usage(message, "costUSD")
        for kind, name in TOKENS.items():
            self._tokens[kind] += _usage(message, name)
        for name in ("num_turns", "duration_ms"):
            self._totals[name] += _number(message, name)
        return ()

    def _read_limits(self, message: Table) -> Iterable[Event]:
        self._limits = _table(message, "rate_limit_info")
        return ()

    def _read_system(self, message: Table) -> Iterable[Event]:
        self._unsaved = self._unsaved or message.get("subtype") == "session_writes_lost"
        return ()

    # --- making events ---

    def _event(self, kind: str, **fields: object) -> Event:
        number, self._next = self._next, self._next + 1
        return {"type": kind, "n": number, **fields}

    def _report_dropped_line(self) -> list[Event]:
        """Report a line that was too long. If a tool is running, the line must have been that tool's result."""
        text = f"[a line of more than {LINE_BYTES} bytes was left out]"
        for tool in list(self._tools)[:1]:
            del self._tools[tool]
            return [self._event("tool_result", id=tool, ok=False, text=text, cut=True)]
        return [self._event("text", text=f"\n{text}\n")]

    def _result_event(self, last: Table, ok: bool) -> Event:
        text = _text(last, "result") if ok else ""
        turns, seconds = int(self._totals["num_turns"]), self._totals["duration_ms"] / 1000
        cost, tokens = self._totals["cost"], {kind: int(count) for kind, count in self._tokens.items()}
        return self._event("result", ok=ok, text=text, turns=turns, seconds=seconds, cost_usd=cost, tokens=tokens)


_READERS: dict[str, Callable[[Translator, Table], Iterable[Event]]] = {
    "stream_event": Translator._read_stream_event,
    "assistant": Translator._read_assistant,
    "user": Translator._read_user,
    "result": Translator._read_result,
    "rate_limit_event": Translator._read_limits,
    "system": Translator._read_system,
}


def find_proposed_verb(tool_name: str, tool_input: Table, ok: bool, text: str) -> str | None:
    """Return the verb that a tool call proposes, or None.

    Only a call of exactly `pve VERB` that the host ended with exit 16 is a proposal. The output of any other command is
    not one.
    """
    command = tool_input.get("command")
    if tool_name != "Bash" or ok or not isinstance(command, str):
        return None
    program, _, verb = command.strip().partition(" ")
    if program != "pve" or verb not in VERBS or not VERBS[verb].mutating:
        return None
    first, *rest = text.splitlines() or [""]
    return verb if first == "Exit code 16" and f"approval-required: {verb}" in rest else None


def _usage(result: Table, name: str) -> float:
    """Return the sum over all models since the last result. `total_cost_usd` would include earlier turns."""
    models = _table(result, "model_usage_since_last_result")
    return float(sum(_number(usage, name) for usage in models.values() if isinstance(usage, dict)))


def _table(table: Table, key: str) -> Table:
    value = table.get(key)
    return value if isinstance(value, dict) else {}


def _text(table: Table, key: str) -> str:
    value = table.get(key)
    return value if isinstance(value, str) else ""


def _number(table: Table, key: str) -> float:
    """Return a number, or 0 if the value is not a number or is too large to be added up."""
    value = table.get(key)
    is_valid = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return value if is_valid and value is not None else 0


def _blocks(message: Table) -> list[Table]:
    content = message.get("content")
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _result_text(block: Table) -> str:
    """Return the text of a tool result. Other content, such as a picture, is left out."""
    content = block.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(_text(part, "text") for part in _blocks(block) if part.get("type") == "text")
