"""Decides which of claude's requests are passed on to the model's API. Pure.

The API would do more for its caller than answer: search the web, fetch an address, run code, speak to other servers.
Each of that is a way out for what claude has read. So what is passed on is listed here: what CLI 2.1.331 sends, and
what else sets how the model answers.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

Json = dict[str, Any]
Headers = Iterable[tuple[bytes, bytes]]

PATHS = frozenset(b"/v1/messages" + more + query for more in (b"", b"/count_tokens") for query in (b"", b"?beta=true"))
_HEADERS = frozenset(
    b"accept accept-encoding anthropic-beta anthropic-dangerous-direct-browser-access anthropic-version content-type "
    b"user-agent x-app x-claude-code-session-id".split()
)
_OF_THE_LIBRARY = b"x-stainless-"  # what the CLI's library says of itself, in ten headers
_FIELDS = frozenset(
    (
        *("context_management", "max_tokens", "messages", "metadata", "model", "output_config", "stop_sequences"),
        *("stream", "system", "temperature", "thinking", "tool_choice", "tools", "top_k", "top_p"),
    )
)
_MESSAGE = frozenset(("role", "content", "output_config", "clear_at"))
# The last one holds a place, and can't be called, because the CLI adds it for its newer models.
_TOOLS = frozenset(("Bash", "Read", "Grep", "Glob", "DeferredToolPlaceholder"))
_TOOL = frozenset(("name", "description", "input_schema", "cache_control", "defer_loading", "strict", "type"))
_BLOCKS = frozenset(("text", "image", "document", "thinking", "redacted_thinking", "tool_use", "tool_result"))
_SOURCES = frozenset(("base64", "text"))  # of an image or a document, because the API itself would fetch one from a URL


def passed_on(headers: Headers) -> Iterator[tuple[bytes, bytes]]:
    """Yield those of a request's headers that the API gets."""
    return ((name, value) for name, value in headers if name in _HEADERS or name.startswith(_OF_THE_LIBRARY))


def find_refusal(data: bytes | bytearray) -> str:
    """Return what in the body of a request keeps it from being passed on; an empty text for a good one."""
    try:
        body = json.loads(data.decode(), object_pairs_hook=_unique)
        return next(_find_faults(body), "")
    except (ValueError, RecursionError):
        return "the body is not an object of unambiguous JSON"


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    """Return an object. One with a name twice has two readings, and the API's could be the other one."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _find_faults(body: Json) -> Iterator[str]:
    [body] = _objects([body])
    yield from _others("field", body, _FIELDS)
    for tool in _objects(body.get("tools")):
        yield from _others("tool", [tool.get("name")], _TOOLS)
        yield from _others("kind of tool", [tool.get("type", "custom")], {"custom"})
        yield from _others("field of a tool", tool, _TOOL)
    yield from _find_in_content(body.get("system"))
    for message in _objects(body.get("messages")):
        yield from _others("field of a message", message, _MESSAGE)
        yield from _find_in_content(message.get("content"))


def _find_in_content(content: object) -> Iterator[str]:
    for block in [] if isinstance(content, str) else _objects(content):
        yield from _others("block", [block.get("type")], _BLOCKS)
        if "source" in block:
            [source] = _objects([block["source"]])
            yield from _others("source", [source.get("type")], _SOURCES)
        yield from _find_in_content(block.get("content"))


def _others(what: str, found: Iterable[object], known: Collection[str]) -> Iterator[str]:
    return (f'the {what} "{str(name)[:60]}" is not passed on' for name in found if str(name) not in known)


def _objects(value: object) -> list[Json]:
    """Return a list of objects, or nothing for null. Raises ValueError for anything else."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError
    return value
