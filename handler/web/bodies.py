"""Parses request bodies: strict JSON, known fields, right types. A 400 names the wrong field. Pure.

A duplicate key is an error, because two parsers could disagree on which value counts.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..agents.pve.words import ANYWAY, GOES_WITH, PROVES
from ..auth.signing import ID, Caller
from ..base.errors import BadRequest
from ..base.text import shown
from ..config.model import Vm
from ..proxmox.request import VerbFields, VerbRequest

_STATE = re.compile(r"[a-z-]{1,32}", re.ASCII)


@dataclass(frozen=True)
class VerbBody(VerbFields):
    """The body of POST /pve. `verb` or `vm` can be unknown."""

    vm: str = ""
    challenge: str = ""
    to: str = ""

    def permitted(self, vm: Vm, msg_id: str, caller: Caller, received: float) -> VerbRequest:
        """Return the verb request. The caller must have the permission already."""
        fields = {name: getattr(self, name) for name in VerbFields.__dataclass_fields__}
        return VerbRequest(vm=vm, id=msg_id, caller=caller, received=received, **fields)


def strict_json(body: bytes) -> Mapping[str, object]:
    """Return the JSON object in `body`; raise BadRequest if it is anything else."""
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {str(error)[:120]}", "send one JSON object in UTF-8") from None
    if not isinstance(value, dict):
        raise BadRequest("the body is not a JSON object", 'send one, like {"verb":"status"}')
    return value


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def parse_verb_body(body: bytes) -> VerbBody:
    """Return the parsed body of POST /pve; raise BadRequest."""
    fields = strict_json(body)
    known = VerbBody.__dataclass_fields__
    for name, value in fields.items():
        if name not in known:
            raise BadRequest(f'unknown field "{shown(name)}"', f"use one of {', '.join(known)}")
        if name == "again":
            if not isinstance(value, bool):
                raise BadRequest('"again" is not true or false', "write true or false, without quotes")
        elif not isinstance(value, str) or not is_utf8(value):
            raise BadRequest(f'"{name}" is not text', "put it in quotes")
    if "verb" not in fields:
        raise BadRequest('"verb" is missing', 'add it, like {"verb":"status"}')
    parsed = VerbBody(**fields)  # type: ignore[arg-type]  # the loop has checked the type of each
    check_shape("if_state", parsed.if_state, _STATE)
    check_shape("if_last", parsed.if_last, ID, "none")
    check_shape("job", parsed.job, ID)
    _check_word("anyway", parsed.anyway, tuple(ANYWAY), parsed.verb)
    _check_word("proves", parsed.proves, PROVES, parsed.verb)
    return parsed


def _check_word(field: str, word: str, known: tuple[str, ...], verb: str) -> None:
    """Raise BadRequest unless a field is empty, or has a known word that is allowed for the verb."""
    if word and word not in known:
        raise BadRequest(f'"{field}" can\'t be "{shown(word)}"; nothing was sent', f"use {' or '.join(known)}")
    if word and verb not in GOES_WITH[word]:
        raise BadRequest(
            f'"{field}":"{word}" does not go with "{shown(verb)}"; nothing was sent',
            f"leave it out, because it goes with {' and '.join(GOES_WITH[word])} alone",
        )


def check_shape(name: str, value: str, pattern: re.Pattern[str], keyword: str = "") -> None:
    """Raise BadRequest unless a field's value is empty, is the keyword, or matches."""
    if value and value != keyword and not pattern.fullmatch(value):
        raise BadRequest(f'"{name}" has an invalid character or length', f"it must match {pattern.pattern}")


def is_utf8(text: str) -> bool:
    """Tell whether a text can be encoded as UTF-8. JSON can contain a lone surrogate, which can't be encoded."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
