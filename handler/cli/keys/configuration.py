"""The configuration whose callers `breakglass keys` changes, and their new secrets."""

import argparse
import base64
import contextlib
import json
import os
import secrets
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from ...auth.signing import BEARER, GRAFANA, SIGNATURE
from ...config.callers import AUTH_METHODS
from ...config.entries import NamedEntry
from ...config.load import config_path, load_callers
from ...config.own_files import EditError, take_back
from ...config.sources import own_file, read_sources
from ..environment import use_unit_credentials
from ..output import FAILED, CommandError, reason, say

# --- New secrets for callers, and the file that gives one to its caller ---

KEYS = {method: key for key, method in AUTH_METHODS.items()}  # the key in the caller's entry for each auth method
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
    """Write a secret to a new file that only its owner can read. Remove the file if the block fails.

    For None, no file is written, because standard output shows the secret. Raises CommandError if the file exists or
    can't be written, or for None if there is no standard output.
    """
    if file is None:
        if sys.stdout is None:
            raise CommandError("standard output is closed, so the secret can't be shown", "add --out FILE", FAILED)
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


# --- The configuration whose callers `breakglass keys` changes, and an edit's errors as errors of the command ---


def add_config_argument(parser: argparse.ArgumentParser) -> None:
    """Describe `--config`."""
    parser.add_argument("--config", metavar="FILE", help="the configuration (default: BREAKGLASS_CONFIG)")


def find_config(arguments: argparse.Namespace) -> Path:
    """Return the configuration's path. Raises CommandError if there is none."""
    path = config_path() if arguments.config is None else Path(arguments.config)
    if not os.path.lexists(path):
        hint = "name it: export BREAKGLASS_CONFIG=/etc/breakglass/breakglass.toml"
        raise CommandError(f"there is no configuration {path}", hint)
    use_unit_credentials()
    return path


def find_caller(file: Path, name: str) -> tuple[NamedEntry, list[NamedEntry]]:
    """Return a caller's entry, and the entries of all others. Raises CommandError if there is no such caller."""
    entries, _ = load_callers(read_sources(file, os.environ), os.environ)
    own = [each for each in entries if each.name == name]
    if not own:
        hint = f"use {' or '.join(each.name for each in entries)}"
        raise CommandError(f"{file} has no caller {name}", hint, FAILED)
    return own[0], [each for each in entries if each.name != name]


def say_json(file: Path, name: str, fields: Mapping[str, object]) -> None:
    """Print what was done to a caller as one line of JSON."""
    say(json.dumps({"name": name, "file": str(own_file(file, "callers", name)), **fields}))


def show_or_take_back(arguments: argparse.Namespace, file: Path, secret: str) -> None:
    """Print a caller's new secret unless --out has it. If printing fails, revoke the unseen secret.

    With --json, the line is printed before the reload, because the secret must not be lost if the reload fails.
    """
    try:
        if arguments.json:
            shown = None if arguments.out else secret
            say_json(file, arguments.name, {"secret": shown, "secret_file": arguments.out})
        elif arguments.out is None:
            say(secret)
    except BaseException:  # for example a closed pipe, or Ctrl-C
        with contextlib.suppress(EditError):
            take_back(file, arguments.name, secret)
        raise


@contextlib.contextmanager
def changing() -> Iterator[None]:
    """Report a failed edit as an error of the command. SIGTERM and SIGHUP end it as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    except EditError as error:
        raise CommandError(error.message, error.hint, FAILED) from None
