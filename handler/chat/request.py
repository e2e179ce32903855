"""The body of a request to /chat, parsed. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ChatRequest:
    """The body of POST /chat: one of `prompt`, `attach`, `cancel`, `list`, `replay`.

    `vm` and `session` are not checked yet.
    """

    prompt: str = ""
    vm: str = ""
    session: str = ""
    attach: str = ""
    cancel: str = ""
    tools: str = ""
    list: bool = False
    replay: bool = False
    after: int = 0
    challenge: str = ""
    to: str = ""
