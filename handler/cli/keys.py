"""`breakglass keys new`: a caller's entry, and its secret, which is shown this once or written to a file."""

import argparse
import base64
import json
import os
import secrets
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from ..auth.signing import BEARER, GRAFANA
from ..config.callers import READS
from ..config.model import is_caller_name, is_vm_name
from ..config.new_file import toml_text
from ..verbs import ALLOWABLE
from .errors import CommandError, reason
from .output import DONE, FAILED, say, show


def keys_new(arguments: argparse.Namespace) -> int:
    """Print a new caller's entry; its secret is in the entry, or in the file that --out names."""
    if not is_caller_name(arguments.name):
        hint = "use letters, digits, @ . _ - and at most 64 of them"
        raise CommandError(f'not a usable caller name: "{arguments.name}"', hint)
    key, secret, allow = _new_key(arguments.method)
    lines = [f"[callers.{json.dumps(arguments.name)}]", f"{key} = {json.dumps(secret)}"]
    if arguments.allow is not None:
        known = ALLOWABLE if key == "secret" else READS
        allow = _words("--allow", arguments.allow, lambda word: word in known, f"use {', '.join(known)}")
    lines.append(f"allow = {json.dumps(allow)}")
    if arguments.vm is not None:
        hint = "write names of the configuration, with commas between them"
        lines.append(f"vms = {json.dumps(_words('--vm', arguments.vm, is_vm_name, hint))}")
    if arguments.not_after is not None:
        lines.append(f"not_after = {_time(arguments.not_after)}")
    if arguments.out is not None:
        lines[1] = f"{key}_file = {toml_text(os.path.abspath(arguments.out))}"
        _write(arguments.out, secret)
    say("\n".join(lines))
    what = "shown once: add it" if arguments.out is None else "the secret is in the file: add the entry"
    show(f"# {what} to the configuration, give it to its caller, reload the handler (SIGHUP)\n", sys.stderr)
    return DONE


def _words(flag: str, text: str, is_usable: Callable[[str], bool], hint: str) -> list[str]:
    words = list(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in words:
        if not is_usable(word):
            raise CommandError(f"{flag}: {json.dumps(word[:40])} can't be used", hint)
    return words


def _time(text: str) -> str:
    """Return a time of TOML, in UTC."""
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):
        hint = "write it like 2027-06-01, or 2027-06-01T12:00:00Z"
        raise CommandError(f"--not-after: {json.dumps(text[:40])} is not a time", hint) from None


def _write(file: str, secret: str) -> None:
    """Write the secret to a new file, which its owner alone can read."""
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as opened:
            opened.write(f"{secret}\n")
    except FileExistsError:
        raise CommandError(f'"{file}" exists, and was not changed', "name a new file") from None
    except OSError as error:
        raise CommandError(f'can\'t write "{file}": {reason(error)}', "name another file", FAILED) from None


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
