"""The verb `screen` of POST /pve: which requests may have the console's picture."""

from ..auth.signing import SIGNATURE, Signed
from ..errors import Forbidden


def check_picture(verb: str, signed: Signed) -> None:
    """Raise Forbidden for `screen` with a bearer token: everyone who sees one such request can send another."""
    if verb == "screen" and signed.caller.auth_method != SIGNATURE:
        raise Forbidden(
            'a request with a bearer token can\'t use "screen"; nothing was sent', "send it with a signing key"
        )
