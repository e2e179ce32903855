"""A wrong clock locks nobody out: the challenge that a stale request is answered with, and is judged by when it comes
again. Pure.

It is a MAC over caller, id and issue time, so any replica with the same `sessions.secret` can check it, it serves that
one id of that one caller, and its age is measured by the handler's clock alone. The tolerance never widens, and nobody
ever signs with a time that came unauthenticated.
"""

import base64
import hmac
import re
from collections.abc import Sequence

from ..errors import StaleTimestamp
from .signing import Signed, check_age, same

SECONDS = 60
SHAPE = re.compile(r"[1-9][0-9]{9}\.[A-Za-z0-9_-]{43}", re.ASCII)


def check_time(signed: Signed, challenge: str, now: int, secrets: Sequence[str]) -> None:
    """Raise StaleTimestamp, with a new challenge, unless the signature is fresh or the challenge in its body is.

    `secrets` are those of the sessions, oldest first: the newest one issues, each one is accepted.
    """
    try:
        check_age(signed, now)
    except StaleTimestamp as stale:
        if not any(_holds(secret, challenge, signed, now) for secret in secrets):
            stale.extra["challenge"] = _issued(secrets[-1], signed, now)
            raise


def _issued(secret: str, signed: Signed, at: int) -> str:
    # no name and no id has a line break in it: these bytes have one reading
    told = f"breakglass clock challenge\n{signed.caller.name}\n{signed.id}\n{at}"
    mac = hmac.digest(secret.encode(), told.encode(), "sha256")
    return f"{at}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def _holds(secret: str, challenge: str, signed: Signed, now: int) -> bool:
    if not SHAPE.fullmatch(challenge):
        return False
    at = int(challenge.partition(".")[0])
    return same(_issued(secret, signed, at).encode(), challenge.encode()) and 0 <= now - at <= SECONDS
