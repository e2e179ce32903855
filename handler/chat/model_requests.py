"""Decides which of claude's requests are passed on to the model's API. Pure.

The API can do more than answer. It can search the web, fetch an address, run code, or talk to other servers. Each of
these could leak data that claude has read. So this module lists the fields that may be passed on. These are the fields
that CLI 2.1.331 sends, and other fields that only control how the model answers.
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
_OF_THE_LIBRARY = b"x-stainless-"  # prefix of ten headers in which the CLI's library describes itself
_FIELDS = frozenset(
    (
        *("context_management", "max_tokens", "messages", "metadata", "model", "output_config", "stop_sequences"),
        *("stream", "system", "temperature", "thinking", "tool_choice", "tools", "top_k", "top_p"),
    )
)
_MESSAGE = frozenset(("role", "content", "output_config", "clear_at"))
# The CLI adds the placeholder for newer models. A model can't call it.
_TOOLS = frozenset(("Bash", "Read", "Grep", "Glob", "DeferredToolPlaceholder"))
_TOOL = frozenset(("name", "description", "input_schema", "cache_control", "defer_loading", "strict", "type"))
_BLOCKS = frozenset(("text", "image", "document", "thinking", "redacted_thinking", "tool_use", "tool_result"))
# sources of an image or a document; a URL is refused, because the API itself would fetch it
_SOURCES = frozenset(("base64", "text"))


def passed_on(headers: Headers) -> Iterator[tuple[bytes, bytes]]:
    """Yield the headers of a request that are passed on to the API."""
    return ((name, value) for name, value in headers if name in _HEADERS or name.startswith(_OF_THE_LIBRARY))


def find_refusal(data: bytes | bytearray) -> str:
    """Return what is refused in the body of a request, or an empty text if it may be passed on."""
    try:
        body = json.loads(data.decode(), object_pairs_hook=_unique)
        return next(_find_faults(body), "")
    except (ValueError, RecursionError):
        return "the body is not an object of unambiguous JSON"


def _unique(pairs: list[tuple[str, Any]]) -> Json:
    """Return an object. Refuses a repeated name, because the API could read the other one of its two values."""
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
    """Return a list of objects, or nothing for null. Raises ValueError for any other value."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError
    return value
