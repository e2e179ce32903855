"""New secrets for callers, and the file that gives one to its caller."""

import base64
import contextlib
import os
import secrets
import sys
from collections.abc import Iterator

from ...auth.signing import BEARER, GRAFANA, SIGNATURE
from ...config.callers import AUTH_METHODS
from ..errors import CommandError, reason
from ..output import FAILED

KEYS = {method: key for key, method in AUTH_METHODS.items()}  # the entry's key for each auth method
NOUNS = {SIGNATURE: "signing key", BEARER: "token", GRAFANA: "secret"}


def new_secret(method: str) -> str:
    """Return a new secret for an auth method."""
    if method == BEARER:
        return f"bgt_{secrets.token_urlsafe(32)}"
    return secrets.token_urlsafe(32) if method == GRAFANA else new_signing_key()


def new_signing_key() -> str:
    """Return a new signing key."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


@contextlib.contextmanager
def secret_file(file: str | None, secret: str) -> Iterator[None]:
    """Write a secret to a new file, which its owner alone can read; remove it if what follows fails.

    None writes nothing: standard output shows it. Raises CommandError for a file that exists or can't be written, and
    for None without a standard output.
    """
    if file is None:
        if sys.stdout is None:
            raise CommandError("standard output is closed: the secret can't be shown", "add --out FILE", FAILED)
        yield
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CommandError(f'"{file}" exists, and was not changed', "name a new file") from None
    except OSError as error:
        raise CommandError(f'can\'t write "{file}": {reason(error)}', "name another file", FAILED) from None
    try:
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as opened:
                opened.write(f"{secret}\n")
        except OSError as error:
            raise CommandError(f'can\'t write "{file}": {reason(error)}', "name another file", FAILED) from None
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(file)
        raise
