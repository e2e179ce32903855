"""`breakglass keys new`: a caller's entry with a secret that is shown this once."""

import argparse
import base64
import json
import secrets
import sys

from ..auth.signing import BEARER, GRAFANA
from ..config.model import is_caller_name
from .errors import CommandError
from .output import DONE, say, show


def keys_new(arguments: argparse.Namespace) -> int:
    """Print a new caller's entry; the secret is shown this once."""
    if not is_caller_name(arguments.name):
        hint = "use letters, digits, @ . _ - and at most 64 of them"
        raise CommandError(f'not a usable caller name: "{arguments.name}"', hint)
    key, secret, allow = _new_key(arguments.method)
    say(f"[callers.{json.dumps(arguments.name)}]\n{key} = {json.dumps(secret)}\nallow  = {json.dumps(allow)}")
    show("# shown once: add it to the configuration, give it to its caller, reload the handler (SIGHUP)\n", sys.stderr)
    return DONE


def _new_key(method: str) -> tuple[str, str, list[str]]:
    """Return the entry's key, a new secret for it, and the verbs that such a caller usually may run."""
    if method == BEARER:
        return "token", f"bgt_{secrets.token_urlsafe(32)}", ["forensics"]
    if method == GRAFANA:
        return "grafana_secret", secrets.token_urlsafe(32), ["forensics"]
    return "secret", new_signing_key(), ["status", "forensics", "history"]


def new_signing_key() -> str:
    """Return a new signing key."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
