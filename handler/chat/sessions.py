"""Session tokens: which conversation, whose, about which VM, until when. They travel through the client, signed.

Refuses a token that is changed, expired, another caller's or about another VM; the id in it is matched whole before it
gets near a command line, whoever signed it.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from itsdangerous import BadData, URLSafeSerializer

from ..errors import SessionInvalid

LIFETIME = 30 * 24 * 3600
_SALT = "breakglass.session"
_SID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)


@dataclass(frozen=True)
class Session:
    """One conversation with claude, which keeps it under `sid`."""

    sid: str
    caller: str
    vm: str
    exp: int


def is_sid(text: str) -> bool:
    """Tell whether this is a UUID as we spell it."""
    return bool(_SID.fullmatch(text))


def seal(session: Session, keys: Sequence[str]) -> str:
    """Return the token; the newest key, the last, signs."""
    fields = {"sid": session.sid, "caller": session.caller, "vm": session.vm, "exp": session.exp}
    return str(_serializer(keys).dumps(fields))


def unseal(token: str, keys: Sequence[str], caller: str, now: float) -> Session:
    """Return the session that a caller may continue; raise SessionInvalid, which says why."""
    try:
        fields = _serializer(keys).loads(token)
        session = Session(fields["sid"], fields["caller"], fields["vm"], fields["exp"])
        sound = is_sid(session.sid) and isinstance(session.vm, str) and session.exp > now
    except (BadData, KeyError, TypeError, ValueError, RecursionError):
        raise _invalid("is not one of ours, or was changed") from None
    if session.caller != caller:
        raise _invalid("belongs to another caller")
    if not sound:
        raise _invalid("has expired")
    return session


def _invalid(why: str) -> SessionInvalid:
    return SessionInvalid(f"the session {why}", "leave it out to begin a new conversation")


def _serializer(keys: Sequence[str]) -> URLSafeSerializer:
    return URLSafeSerializer(list(keys), salt=_SALT, signer_kwargs={"digest_method": hashlib.sha256})
