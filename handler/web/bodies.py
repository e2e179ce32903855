"""Reading request bodies: strict JSON, known fields only, the right types, or a 400 that says which.

Pure. Duplicate keys are refused because two parsers would disagree on which one counts.
"""

import json
import re
from collections.abc import Mapping

from ..chat.request import ChatRequest
from ..errors import BadRequest
from ..proxmox.request import PveRequest
from ..text import shown
from ..verbs import ANYWAY

_STATE = re.compile(r"[a-z-]{1,32}", re.ASCII)
_JOB = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)


def strict_json(body: bytes) -> Mapping[str, object]:
    """Return the one JSON object that `body` is; raise BadRequest for anything else."""
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {str(error)[:120]}", "send one JSON object in UTF-8") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is not a JSON object", 'like {"verb":"status"}')
    return value


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def pve_request(body: bytes) -> PveRequest:
    """Return what a /pve body asks for."""
    fields = strict_json(body)
    known = PveRequest.__dataclass_fields__
    for name, value in fields.items():
        if name not in known:
            raise BadRequest(f'unknown field "{shown(name)}"', f"one of {', '.join(known)}")
        if not isinstance(value, str) or not _sound(value):
            raise BadRequest(f'"{name}" is not text', "put it in quotes")
    if "verb" not in fields:
        raise BadRequest('"verb" is missing', 'like {"verb":"status"}')
    request = PveRequest(**{name: str(value) for name, value in fields.items()})
    _shape("if_state", request.if_state, _STATE)
    _shape("if_last", request.if_last, _JOB, "none")
    _shape("job", request.job, _JOB)
    if request.anyway:
        _check_anyway(request)
    return request


def _check_anyway(request: PveRequest) -> None:
    """Raise BadRequest unless `anyway` names a refusal that can be lifted, and a verb that it is lifted for."""
    override = ANYWAY.get(request.anyway)
    if override is None:
        raise BadRequest(
            f'"anyway" can\'t lift "{shown(request.anyway)}"; nothing was sent',
            f"{' or '.join(ANYWAY)}, and only where the refused answer offers it",
        )
    if request.verb not in override.verbs:
        raise BadRequest(
            f'"anyway" does not go with "{shown(request.verb)}"; nothing was sent',
            f"leave it out; it is for {' and '.join(override.verbs)} alone",
        )


_CHAT = {
    "prompt": ("prompt", "vm", "session", "challenge"),
    "attach": ("attach", "after", "challenge"),
    "cancel": ("cancel", "challenge"),
}


def chat_request(body: bytes) -> ChatRequest:
    """Return what a /chat body asks for."""
    fields = strict_json(body)
    asked = [name for name in _CHAT if name in fields]
    if len(asked) != 1:
        raise BadRequest(f"exactly one of {', '.join(_CHAT)} is required", "see docs/protocol.md")
    for name, value in fields.items():
        if name not in _CHAT[asked[0]]:
            raise BadRequest(f'unknown field "{shown(name)}" beside {asked[0]}', f"one of {', '.join(_CHAT[asked[0]])}")
        if name == "after":
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
                raise BadRequest('"after" is not a number of an event', "leave it out to begin with the first")
        elif not isinstance(value, str) or not _sound(value) or "\0" in value:
            raise BadRequest(f'"{name}" is not text', "put it in quotes")
    request = ChatRequest(**fields)  # type: ignore[arg-type]  # each was judged above
    if asked[0] == "prompt" and not request.prompt.strip():
        raise BadRequest("the prompt is empty", "say what you see")
    for name in ("attach", "cancel"):
        _shape(name, getattr(request, name), _JOB)
    return request


def _shape(name: str, value: str, pattern: re.Pattern[str], word: str = "") -> None:
    if value and value != word and not pattern.fullmatch(value):
        raise BadRequest(f'"{name}" has characters or a length it can\'t have', f"it matches {pattern.pattern}")


def _sound(text: str) -> bool:
    """Tell whether a text can be written as UTF-8; JSON can spell half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
