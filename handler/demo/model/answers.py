"""What the stand-in model says next, and in which pieces: the words of the Messages API without its wire. Pure but for
the ids that it makes up.

The newest script in the conversation decides: `FAKE=[step, …]`, in the operator's text or in what a tool returned (this
model believes everything it reads), and the step is the number of answers since. A step is one answer: any of
`thinking`, `text`, `tool` with `input`; what else it may hold is `server.py`'s.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

Json = dict[str, Any]
Script = list[Json]
Default = Callable[[str, int, str], Json]

_DELTA = 24  # characters


def step(messages: list[Json], default: Default) -> Json:
    """Return what comes next in a conversation; where there is no script, `default` is asked with the operator's words,
    the step's number, and what the last tool said."""
    answers, words, shown = 0, None, ""
    for message in reversed(messages):
        if message["role"] == "assistant":
            answers += 1
        if message["role"] != "user":  # the CLI adds words of its own as `system`, in the middle
            continue
        for text, is_tool in reversed(list(texts(message))):
            if "FAKE=[" in text:
                script: Script = json.JSONDecoder().raw_decode(text[text.rindex("FAKE=[") + 5 :])[0]
                return script[answers] if answers < len(script) else {"text": "done"}
            if is_tool and words is None and not shown:
                shown = text
            if not is_tool and words is None and not text.startswith("<system-reminder>"):
                words = text, answers
    return default(*(words or ("", answers)), shown)


def texts(message: Json) -> Iterator[tuple[str, bool]]:
    """Yield each text of a message with whether a tool said it."""
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


def blocks(what: Json) -> list[Json]:
    """Return the content blocks of one answer."""
    found: list[Json] = []
    if "thinking" in what:
        found.append({"type": "thinking", "thinking": what["thinking"], "signature": "c2lnbmVk"})
    if "text" in what:
        found.append({"type": "text", "text": what["text"]})
    if "tool" in what:
        tool_id = f"toolu_{uuid.uuid4().hex[:24]}"
        found.append({"type": "tool_use", "id": tool_id, "name": what["tool"], "input": what.get("input", {})})
    return found or [{"type": "text", "text": ""}]


def block_start(block: Json) -> Json:
    empty = {"text": "", "thinking": "", "signature": ""}
    return {name: empty.get(name, {} if name == "input" else value) for name, value in block.items()}


def deltas(block: Json) -> Iterator[Json]:
    if block["type"] == "tool_use":
        yield {"type": "input_json_delta", "partial_json": ""}
        yield {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        return
    kind = block["type"]
    for at in range(0, len(block[kind]), _DELTA):
        yield {"type": f"{kind}_delta", kind: block[kind][at : at + _DELTA]}
    if kind == "thinking":
        yield {"type": "signature_delta", "signature": block["signature"]}


def message_of(asked: Json) -> Json:
    usage = {"input_tokens": len(json.dumps(asked["messages"])) // 4, "output_tokens": 1}
    usage |= {"cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    about = {"id": f"msg_{uuid.uuid4().hex[:24]}", "type": "message", "role": "assistant", "model": asked["model"]}
    return about | {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}


def stop_reason(content: list[Json]) -> str:
    return "tool_use" if content[-1]["type"] == "tool_use" else "end_turn"


def fault_of(asked: Json) -> str:
    """Return what the original refuses: no message, or a tool call that has no result."""
    messages = asked.get("messages") or []
    if not messages or messages[0]["role"] != "user":
        return "messages: the first message must be the user's"
    called, answered = set(), set()
    for message in messages:
        for block in message["content"] if isinstance(message["content"], list) else ():
            called |= {block["id"]} if block["type"] == "tool_use" else set()
            answered |= {block["tool_use_id"]} if block["type"] == "tool_result" else set()
    return f"messages: tool_use without tool_result: {called ^ answered}" if called ^ answered else ""
