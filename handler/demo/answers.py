"""The stand-in model's answers as the Messages API's objects, without HTTP. Pure, except for ids.

A step is one answer: any of `thinking`, `text`, and `tool` with its `input`. `server.py` reads `pace`.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

Json = dict[str, Any]
Default = Callable[[str, int, str], Json]

_DELTA = 24  # characters


def next_step(messages: list[Json], default: Default) -> Json:
    """Return the next step of a conversation.

    `default` gets the operator's last words, the number of answers since then, and the last tool's output.
    """
    answers, shown = 0, ""
    for message in reversed(messages):
        if message["role"] == "assistant":
            answers += 1
        if message["role"] != "user":  # the CLI adds messages with the role `system` in between
            continue
        for text, is_tool in reversed(list(texts(message))):
            if is_tool:
                shown = shown or text
            elif not text.startswith("<system-reminder>"):
                return default(text, answers, shown)
    return default("", answers, shown)


def texts(message: Json) -> Iterator[tuple[str, bool]]:
    """Yield each text of a message, with a flag that says whether a tool returned it."""
    content = message["content"]
    if isinstance(content, str):
        yield content, False
        return
    for block in content:
        if block["type"] == "text":
            yield block["text"], False
        elif block["type"] == "tool_result":
            inner = block.get("content") or ""
            blocks = [{"type": "text", "text": inner}] if isinstance(inner, str) else inner
            yield from ((each["text"], True) for each in blocks if each["type"] == "text")


def blocks(step: Json) -> list[Json]:
    """Return the content blocks of one answer."""
    found: list[Json] = []
    if "thinking" in step:
        found.append({"type": "thinking", "thinking": step["thinking"], "signature": "c2lnbmVk"})
    if "text" in step:
        found.append({"type": "text", "text": step["text"]})
    if "tool" in step:
        tool_id = f"toolu_{uuid.uuid4().hex[:24]}"
        found.append({"type": "tool_use", "id": tool_id, "name": step["tool"], "input": step.get("input", {})})
    return found or [{"type": "text", "text": ""}]


def block_start(block: Json) -> Json:
    """Return a block as it appears at the start of its stream, with empty values."""
    empty = {"text": "", "thinking": "", "signature": ""}
    return {name: empty.get(name, {} if name == "input" else value) for name, value in block.items()}


def deltas(block: Json) -> Iterator[Json]:
    """Yield the pieces in which a block is streamed."""
    if block["type"] == "tool_use":
        yield {"type": "input_json_delta", "partial_json": ""}
        yield {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        return
    kind = block["type"]
    for at in range(0, len(block[kind]), _DELTA):
        yield {"type": f"{kind}_delta", kind: block[kind][at : at + _DELTA]}
    if kind == "thinking":
        yield {"type": "signature_delta", "signature": block["signature"]}


def message_of(body: Json) -> Json:
    """Return the message that answers a request, without its content yet."""
    usage = {"input_tokens": len(json.dumps(body["messages"])) // 4, "output_tokens": 1}
    usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    fields = {"id": f"msg_{uuid.uuid4().hex[:24]}", "type": "message", "role": "assistant", "model": body["model"]}
    return fields | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}


def stop_reason(content: list[Json]) -> str:
    """Return the stop reason of a message with this content."""
    return "tool_use" if content[-1]["type"] == "tool_use" else "end_turn"


def fault_of(body: Json) -> str:
    """Return why the real API would refuse a request: no message, or a tool call without a result. Or empty."""
    messages = body.get("messages") or []
    if not messages or messages[0]["role"] != "user":
        return "messages: the first message must come from the user"
    called, answered = set(), set()
    for message in messages:
        for block in message["content"] if isinstance(message["content"], list) else ():
            called |= {block["id"]} if block["type"] == "tool_use" else set()
            answered |= {block["tool_use_id"]} if block["type"] == "tool_result" else set()
    return f"messages: tool_use without tool_result: {called ^ answered}" if called ^ answered else ""
