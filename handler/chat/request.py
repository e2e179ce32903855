"""A request to /chat: its body, its turn, and its errors. Parsed as strictly as POST /pve. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from ..auth.signing import ID
from ..base.errors import BadRequest, BreakglassError
from ..base.text import shown
from ..config.model import Vm
from ..web.bodies import check_shape, is_utf8, strict_json
from .brief import TOOLS

# --- The errors of /chat ---


class SessionInvalid(BreakglassError):
    """The session token is not valid for this caller."""

    code, status = "session-invalid", 403


class TurnUnknown(BreakglassError):
    """The caller has no such turn, or the turn was removed."""

    code, status = "turn-unknown", 404


class ChatDisabled(BreakglassError):
    """Chat is not configured or can't be used."""

    code, status = "chat-disabled", 503


class ChatNotIsolated(BreakglassError):
    """claude could reach the handler's files, because no sandbox can be created."""

    code, status = "chat-not-isolated", 503


class SessionsUnwritable(BreakglassError):
    """The turn could not be saved, so it was not started."""

    code, status = "sessions-unwritable", 503


# --- The turn that a caller may start ---

Proposal = Mapping[str, str]  # verb, job, last


@dataclass(frozen=True, kw_only=True)
class TurnRequest:
    """A turn. `turn` is its webhook-id, `prompt` the operator's text, `outcomes` the text before that.

    `sid` is a UUID: a new one, or with `resume` the one of the session to continue. `tools` is one of TOOLS (brief.py),
    or empty. `still_open` are proposals of earlier turns.
    """

    turn: str
    caller: str
    vm: Vm
    sid: str
    prompt: str
    resume: bool = False
    tools: str = ""
    token: str = ""
    digest: str = ""
    outcomes: str = ""
    still_open: Sequence[Proposal] = ()

    @property
    def key(self) -> bytes:
        """The key of the turn in the store."""
        return turn_key(self.caller, self.turn)


def turn_key(caller: str, turn: str) -> bytes:
    """Return the key of a turn. Ids of different callers never collide."""
    return sha256(f"{caller}\n{turn}".encode()).digest()[:16]


# --- The body of a request to /chat, parsed ---


@dataclass(frozen=True)
class ChatRequest:
    """The body of POST /chat: one of `prompt`, `attach`, `cancel`, `list`, `replay`.

    `about` is the capture with whose opinion a new conversation begins.
    `vm` and `session` are not checked yet.
    """

    prompt: str = ""
    vm: str = ""
    session: str = ""
    attach: str = ""
    cancel: str = ""
    tools: str = ""
    about: str = ""
    list: bool = False
    replay: bool = False
    after: int = 0
    challenge: str = ""
    to: str = ""


# --- Parse the bodies of POST /chat: as strictly as those of POST /pve ---

_CHAT = {
    "prompt": ("prompt", "vm", "session", "tools", "about", "challenge", "to"),
    "attach": ("attach", "after", "session", "challenge", "to"),
    "cancel": ("cancel", "session", "challenge", "to"),
    "list": ("list", "challenge", "to"),
    "replay": ("replay", "session", "challenge", "to"),
}
_FLAGS = ("list", "replay")


def parse_chat_body(body: bytes) -> ChatRequest:
    """Return the parsed body of POST /chat; raise BadRequest."""
    fields = strict_json(body)
    actions = [name for name in _CHAT if name in fields]
    if len(actions) != 1:
        raise BadRequest(f"exactly one of {', '.join(_CHAT)} is required", "see breakglass docs api")
    action = actions[0]
    for name, value in fields.items():
        if name not in _CHAT[action]:
            raise BadRequest(f'unknown field "{shown(name)}" with "{action}"', f"use one of {', '.join(_CHAT[action])}")
        if name == "after":
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
                raise BadRequest('"after" is not an event number', "leave it out to begin with the first")
        elif name in _FLAGS:
            if value is not True:
                raise BadRequest(f'"{name}" is not true', "write true, or leave it out")
        elif not isinstance(value, str) or not is_utf8(value) or "\0" in value:
            raise BadRequest(f'"{name}" is not text', "put it in quotes")
    request = ChatRequest(**fields)  # type: ignore[arg-type]  # the loop above checked each
    if action == "prompt" and not request.prompt.strip():
        raise BadRequest("the prompt is empty", "say what you see")
    if "tools" in fields and request.tools not in TOOLS:
        raise BadRequest(f'unknown "tools": "{shown(request.tools)}"', f"write {' or '.join(TOOLS)}, or leave it out")
    if action == "replay" and not request.session:
        raise BadRequest('"session" is required with "replay"', "send the token of the conversation")
    for name in ("attach", "cancel", "about"):
        check_shape(name, getattr(request, name), ID)
    return request
