"""`breakglass keys new`: a file for another caller. The secret is shown this once, or written to a file."""

import argparse
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime

from ...auth.signing import SIGNATURE
from ...config.caller_edits import add_caller
from ...config.callers import DIRECTORY, NAME_HINT, SUFFIX
from ...config.model import is_caller_name, is_vm_name
from ...config.new_file import caller_text
from ...config.sources import caller_file
from ...verbs import ALLOWABLE, READS
from ..errors import CommandError
from ..output import DONE, remark, say
from ..reloading import check_reload, reload_handler
from .configuration import changing, find_config, show_or_take_back
from .pairing import pair_new
from .secrets import KEYS, NOUNS, new_secret, secret_file


def keys_new(arguments: argparse.Namespace) -> int:
    """Add a caller and show its secret; with --print, print its file and change nothing."""
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
        add_caller(file, arguments.name, {KEYS[method]: secret, **entry})
        show_or_take_back(arguments, file, secret)
    where = f"in {arguments.out}" if arguments.out else "shown this once"
    what = f"its {NOUNS[method]} is {where}: give it to {arguments.name}"
    remark(f"{arguments.name} is in {caller_file(file, arguments.name)}; {what}")
    reload_handler(arguments)
    return DONE


def _pair(arguments: argparse.Namespace, entry: dict[str, object]) -> int:
    if arguments.method or arguments.out or arguments.print:
        raise CommandError("--pair can't be combined with --bearer, --grafana, --out or --print", "leave them out")
    check_reload(arguments)
    return pair_new(arguments, find_config(arguments), entry)


def _make_entry(arguments: argparse.Namespace, method: str) -> dict[str, object]:
    """Return the entry without its secret. Raises CommandError for a name or a limit that can't be used."""
    if not is_caller_name(arguments.name):
        raise CommandError(f'not a usable caller name: "{arguments.name}"', NAME_HINT)
    signs = method == SIGNATURE
    entry: dict[str, object] = {"allow": list(READS) if signs else ["forensics"]}
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
    """Print a caller's file, for a configuration elsewhere. With --out, it names the file with the secret."""
    key: dict[str, object] = {KEYS[method]: secret}
    if arguments.out is not None:
        key = {f"{KEYS[method]}_file": os.path.abspath(arguments.out)}
    with secret_file(arguments.out, secret):
        say(caller_text({**key, **entry}).rstrip("\n"))
    where = f"{DIRECTORY}/{arguments.name}{SUFFIX}"
    what = "shown once: write it" if arguments.out is None else "the secret is in the file: write this"
    remark(f"# {what} to {where}, or below [callers.NAME], and reload the handler (SIGHUP)")
    return DONE
