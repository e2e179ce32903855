"""Clock challenge: lets a client with a wrong clock prove freshness. Pure.

A challenge is a MAC over caller, id and issue time, so every replica with the same `sessions.secret` can check it. A
challenge is valid for one id of one caller, and only the handler's clock measures its age. The tolerance never widens,
and no client signs with a time that it got without authentication.
"""

import base64
import hmac
import re
from collections.abc import Sequence

from ..base.compare import same
from ..base.errors import StaleTimestamp
from .signing import Signed, check_age

SECONDS = 60
SHAPE = re.compile(r"[1-9][0-9]{9}\.[A-Za-z0-9_-]{43}", re.ASCII)


def check_time(signed: Signed, challenge: str, now: int, secrets: Sequence[str]) -> None:
    """Raise StaleTimestamp, with a new challenge, unless the signature or the challenge in the body is fresh.

    `secrets` are the secrets of `sessions`, oldest first. The newest one makes new challenges; all are accepted.
    """
    try:
        check_age(signed, now)
    except StaleTimestamp as stale:
        if not any(_holds(secret, challenge, signed, now) for secret in secrets):
            stale.extra["challenge"] = _issued(secrets[-1], signed, now)
            raise


def _issued(secret: str, signed: Signed, at: int) -> str:
    # No name and no id has a line break in it, so these bytes can be read in one way only.
    text = f"breakglass clock challenge\n{signed.caller.name}\n{signed.id}\n{at}"
    mac = hmac.digest(secret.encode(), text.encode(), "sha256")
    return f"{at}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


def _holds(secret: str, challenge: str, signed: Signed, now: int) -> bool:
    if not SHAPE.fullmatch(challenge):
        return False
    at = int(challenge.partition(".")[0])
    return same(_issued(secret, signed, at).encode(), challenge.encode()) and 0 <= now - at <= SECONDS
