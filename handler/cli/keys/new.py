"""`breakglass keys new`: another caller in the configuration. Its secret is shown this once, or written to a file."""

import argparse
import contextlib
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ...auth.signing import SIGNATURE
from ...config.callers import READS
from ...config.edit import add_caller, remove_caller
from ...config.model import is_caller_name, is_vm_name
from ...config.replacing import EditError
from ...config.toml_edit import entry_text
from ...verbs import ALLOWABLE
from ..errors import CommandError
from ..output import DONE, remark, say
from ..reloading import check_reload, reload_handler
from .configuration import changing, find_config
from .pairing import pair_new
from .secrets import KEYS, NOUNS, new_secret, secret_file


def keys_new(arguments: argparse.Namespace) -> int:
    """Add a caller to the configuration and show its secret; with --print, print the entry and change nothing."""
    method = arguments.method or SIGNATURE
    entry = _make_entry(arguments, method)
    if arguments.pair:
        return _pair(arguments, entry)
    secret = new_secret(method)
    if arguments.print:
        return _print(arguments, method, secret, entry)
    check_reload(arguments)
    file = find_config(arguments)
    with changing(), secret_file(arguments.out, secret):
        add_and_show(file, arguments.name, {KEYS[method]: secret, **entry}, None if arguments.out else secret)
    where = f"in {arguments.out}" if arguments.out else "shown this once"
    remark(f"{arguments.name} is in {file}; its {NOUNS[method]} is {where}: give it to {arguments.name}")
    reload_handler(arguments)
    return DONE


def _pair(arguments: argparse.Namespace, entry: dict[str, object]) -> int:
    if arguments.method or arguments.out or arguments.print:
        raise CommandError("--pair can't be combined with --bearer, --grafana, --out or --print", "leave them out")
    check_reload(arguments)
    return pair_new(arguments, find_config(arguments), entry)


def add_and_show(file: Path, name: str, entry: dict[str, object], secret: str | None) -> None:
    """Add a caller and print its secret, if there is one to print; take the caller out again if that fails."""
    try:
        add_caller(file, name, entry)
        if secret is not None:
            say(secret)
    except EditError:
        raise
    except BaseException:  # a pipe that is closed, or Ctrl-C: no one has seen the secret
        with contextlib.suppress(EditError):
            remove_caller(file, name, only=entry)
        raise


def _make_entry(arguments: argparse.Namespace, method: str) -> dict[str, object]:
    """Return the entry without its secret. Raises CommandError for a name or a limit that can't be used."""
    if not is_caller_name(arguments.name):
        hint = "use letters, digits, @ . _ - and at most 64 of them"
        raise CommandError(f'not a usable caller name: "{arguments.name}"', hint)
    signs = method == SIGNATURE
    entry: dict[str, object] = {"allow": ["status", "forensics", "history"] if signs else ["forensics"]}
    if arguments.allow is not None:
        known = ALLOWABLE if signs else READS
        entry["allow"] = _words("--allow", arguments.allow, lambda word: word in known, f"use {', '.join(known)}")
    if arguments.vms is not None:
        hint = "write names of the configuration, with commas between them"
        entry["vms"] = _words("--vms", arguments.vms, is_vm_name, hint)
    if arguments.not_after is not None:
        entry["not_after"] = _time(arguments.not_after)
    return entry


def _words(flag: str, text: str, is_usable: Callable[[str], bool], hint: str) -> list[str]:
    words = list(dict.fromkeys(word.strip() for word in text.split(",")))
    for word in words:
        if not is_usable(word):
            raise CommandError(f"{flag}: {json.dumps(word[:40])} can't be used", hint)
    return words


def _time(text: str) -> datetime:
    """Return a time in UTC. Raises CommandError for a text that is no time, and for a time that has passed."""
    try:
        time = datetime.fromisoformat(text)
        time = time.replace(tzinfo=time.tzinfo or UTC, microsecond=0).astimezone(UTC)
    except (ValueError, OverflowError):
        hint = "write it like 2027-06-01, or 2027-06-01T12:00:00Z"
        raise CommandError(f"--not-after: {json.dumps(text[:40])} is not a time", hint) from None
    if time <= datetime.now(UTC):
        raise CommandError(
            f"--not-after: {text} has passed: no request of the caller would be accepted", "name a later time"
        )
    return time


def _print(arguments: argparse.Namespace, method: str, secret: str, entry: dict[str, object]) -> int:
    """Print the entry for a configuration that is kept elsewhere; with --out, it names the file with the secret."""
    key: dict[str, object] = {KEYS[method]: secret}
    if arguments.out is not None:
        key = {f"{KEYS[method]}_file": os.path.abspath(arguments.out)}
    with secret_file(arguments.out, secret):
        say(entry_text(arguments.name, {**key, **entry}).rstrip("\n"))
    what = "shown once: add it" if arguments.out is None else "the secret is in the file: add the entry"
    remark(f"# {what} to the configuration, give it to its caller, reload the handler (SIGHUP)")
    return DONE
