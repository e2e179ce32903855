"""Session tokens: signed records of a conversation, its caller, its VM and its expiry, kept by the client.

A token is refused if it was changed, has expired or belongs to another caller. Even if the signature is valid, the
whole id in a token is matched before it becomes part of a command line.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from itsdangerous import BadData, URLSafeSerializer

from .request import SessionInvalid

LIFETIME = 30 * 24 * 3600
_SALT = "breakglass.session"
_SID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True)
class Session:
    """One conversation. Claude stores its transcript under `sid`."""

    sid: str
    caller: str
    vm: str
    exp: int


def seal(session: Session, keys: Sequence[str]) -> str:
    """Return the token. The newest key, which is the last one, signs it."""
    return str(_serializer(keys).dumps(vars(session)))


def unseal(token: str, keys: Sequence[str], caller: str, now: float) -> Session:
    """Return the session that a caller may continue. Raises SessionInvalid."""
    try:
        fields = _serializer(keys).loads(token)
        session = Session(**fields)
        is_valid = bool(_SID.fullmatch(session.sid)) and isinstance(session.vm, str) and session.exp > now
    except (BadData, KeyError, TypeError, ValueError, RecursionError):
        raise _invalid("token was changed, or another handler made it") from None
    if session.caller != caller:
        raise _invalid("belongs to another caller")
    if not is_valid:
        raise _invalid("has expired")
    return session


def _invalid(why: str) -> SessionInvalid:
    return SessionInvalid(f"the session {why}", "begin a new conversation")


def _serializer(keys: Sequence[str]) -> URLSafeSerializer:
    return URLSafeSerializer(list(keys), salt=_SALT, signer_kwargs={"digest_method": hashlib.sha256})
