"""`breakglass keys new` and `rotate`: add a caller with its first secret, and add a new secret beside the old one."""

import argparse
import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ...auth.signing import SIGNATURE, fingerprint
from ...base.verbs import ALLOWABLE, READS
from ...config.callers import AUTH_METHODS, KEY_BYTES, NAME_HINT
from ...config.entries import own_path
from ...config.load import load_callers
from ...config.model import is_caller_name, is_vm_name
from ...config.new_file import entry_text
from ...config.own_files import add_entry, add_secret, drop_old_secrets, method_setting, texts_of
from ...config.sources import own_file, read_sources
from ..output import DONE, FAILED, CommandError, remark, say
from ..reloading import check_reload, reload_handler
from .configuration import (
    KEYS,
    NOUNS,
    changing,
    find_caller,
    find_config,
    new_secret,
    say_json,
    secret_file,
    show_or_take_back,
)
from .pairing import pair_new, pair_rotate

# --- `breakglass keys new`: a file for a new caller. The secret is shown only once, or written to a file ---


def keys_new(arguments: argparse.Namespace) -> int:
    """Add a caller and show its secret; with --print, only print its file."""
    method = arguments.method or SIGNATURE
    entry = _make_entry(arguments, method)
    if arguments.pair:
        return _pair(arguments, entry)
    secret = new_secret(method)
    if arguments.print:
        _refuse_json(arguments)
        return _print(arguments, method, secret, entry)
    check_reload(arguments)
    file = find_config(arguments)
    with changing(), secret_file(arguments.out, secret):
        add_entry(file, "callers", arguments.name, {KEYS[method]: secret, **entry})
        show_or_take_back(arguments, file, secret)
    where = f"in {arguments.out}" if arguments.out else "shown this once"
    what = f"its {NOUNS[method]} is {where}: give it to {arguments.name}"
    if arguments.name == "doctor":
        what = "breakglass doctor reads its signing key there, so you need not keep it"
    remark(f"{arguments.name} is in {own_file(file, 'callers', arguments.name)}; {what}")
    reload_handler(arguments)
    return DONE


def _refuse_json(arguments: argparse.Namespace) -> None:
    """Raise CommandError for --json with an option that prints something else."""
    if arguments.json:
        raise CommandError("--json can't be combined with --pair or --print", "leave it out")


def _pair(arguments: argparse.Namespace, entry: dict[str, object]) -> int:
    if arguments.method or arguments.out or arguments.print:
        raise CommandError("--pair can't be combined with --bearer, --grafana, --out or --print", "leave them out")
    _refuse_json(arguments)
    check_reload(arguments)
    return pair_new(arguments, find_config(arguments), entry)


def _make_entry(arguments: argparse.Namespace, method: str) -> dict[str, object]:
    """Return the entry without its secret. Raises CommandError for an invalid name or limit."""
    if not is_caller_name(arguments.name):
        raise CommandError(f'not a usable caller name: "{arguments.name}"', NAME_HINT)
    signs = method == SIGNATURE
    entry: dict[str, object] = {"allow": list(READS) if signs else ["forensics"]}
    if arguments.allow is not None:
        known = ALLOWABLE if signs else READS
        entry["allow"] = _words("--allow", arguments.allow, lambda word: word in known, f"use {', '.join(known)}")
    if arguments.vms is not None:
        hint = "write VM names, with commas between them"
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
    """Return a time in UTC. Raises CommandError if the text is not a time, or the time has passed."""
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
    """Print a caller's file, for a configuration elsewhere. With --out, it names the secret's file."""
    key: dict[str, object] = {KEYS[method]: secret}
    if arguments.out is not None:
        key = {f"{KEYS[method]}_file": os.path.abspath(arguments.out)}
    with secret_file(arguments.out, secret):
        say(entry_text("callers", {**key, **entry}).rstrip("\n"))
    where = own_path("callers", arguments.name)
    what = "shown once: write it" if arguments.out is None else "the file has the secret, so save this"
    remark(f"# {what} to {where}, or below [callers.NAME], and reload the handler (SIGHUP)")
    return DONE


# --- `breakglass keys rotate`: a caller gets a new secret beside the old one, which is revoked later ---


def keys_rotate(arguments: argparse.Namespace) -> int:
    """Add a secret to a caller, and show it or write it to a file. --drop-old revokes all but the newest."""
    check_reload(arguments)
    file = find_config(arguments)
    with changing():
        method = AUTH_METHODS[method_setting(arguments.name, find_caller(file, arguments.name)[0].entry.data)]
        if arguments.pair:
            return _pair_rotated(arguments, file, method)
        return _drop(arguments, file, method) if arguments.drop_old else _add(arguments, file, method)


def _add(arguments: argparse.Namespace, file: Path, method: str) -> int:
    name, secret = arguments.name, new_secret(method)
    with secret_file(arguments.out, secret):
        add_secret(file, name, secret)
        show_or_take_back(arguments, file, secret)
    where = f"in {arguments.out}" if arguments.out else "shown this once"
    shown = fingerprint(KEY_BYTES[method](secret))
    remark(f"{name} has a new {NOUNS[method]}, {shown}, {where}; the old one stays valid")
    end = find_caller(file, name)[0].entry.data.get("not_after")
    if isinstance(end, datetime):
        remark(f"its not_after is still {end:%Y-%m-%d}", f"to change that, edit {own_file(file, 'callers', name)}")
    reload_handler(arguments)
    remark("once the new one is in use, end the old one:", f"breakglass keys rotate {name} --drop-old")
    return DONE


def _pair_rotated(arguments: argparse.Namespace, file: Path, method: str) -> int:
    if arguments.out or arguments.drop_old:
        raise CommandError("--pair can't be combined with --out or --drop-old", "leave them out")
    _refuse_json(arguments)
    if method != SIGNATURE:
        raise CommandError(f"{arguments.name} has no signing key, which a device needs", "pair another caller", FAILED)
    return pair_rotate(arguments, file)


def _drop(arguments: argparse.Namespace, file: Path, method: str) -> int:
    name, before = arguments.name, _fingerprints(file, arguments.name)
    has_dropped, left = drop_old_secrets(file, name)
    if not has_dropped:
        if arguments.json:
            say_json(file, name, {"kept": before, "ended": [], "unused_files": []})
        remark(f"{name} has one {NOUNS[method]} only, {', '.join(before)}; nothing was changed")
        return DONE
    after = _fingerprints(file, name)
    ended = [key for key in before if key not in after]
    if arguments.json:
        say_json(file, name, {"kept": after, "ended": ended, "unused_files": left})
    files = f"no longer used, but not deleted: {', '.join(left)}" if left else ""
    where = "".join(f", in {path}" for path in texts_of(find_caller(file, name)[0].entry.data, "secret_file"))
    remark(f"{name} has {', '.join(after)} left{where}; ended: {', '.join(ended)}", files)
    reload_handler(arguments)
    return DONE


def _fingerprints(file: Path, name: str) -> list[str]:
    """Return the fingerprints of a caller's secrets, as in the log. Raises CommandError if it is disabled."""
    _, usable = load_callers(read_sources(file, os.environ), os.environ)
    if name not in usable:
        raise CommandError(f"the entry of {name} has an error", "see breakglass check", FAILED)
    return [fingerprint(key) for key in usable[name].keys]
