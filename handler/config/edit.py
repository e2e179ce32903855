"""Changes the callers in the configuration file, in place: `breakglass keys`. Comments and order are kept.

Each function changes the file or raises EditError or ConfigError, and then the file is as it was. It does not reload
the handler. A link to the file stays a link. Only the commands `keys` load this module, which needs tomlkit.
"""

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .callers import AUTH_METHODS
from .load import parse_toml
from .reader import CREDENTIALS
from .replacing import Edit, EditError, editing, like, uninterrupted
from .toml_edit import Uneditable, insert_caller, set_lists
from .toml_edit import remove_caller as remove_text


class Change(NamedTuple):
    """What an edit did beside the configuration: the files with a secret that it made, and those no longer named."""

    made: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


def add_caller(file: Path, name: str, entry: Mapping[str, object]) -> None:
    """Add a caller: `entry` has `secret` (or `token`, `grafana_secret`), `allow`, and perhaps `vms` and `not_after`.

    `not_after` is a datetime with a time zone. Raises EditError if there is a caller of that name.
    """
    with editing(file) as edit:
        if name in _entries(edit):
            hint = f"change its key with breakglass keys rotate {name}, or end it with breakglass keys revoke {name}"
            raise EditError(f"{file} has a caller {name}", hint)
        _save(edit, lambda text: insert_caller(text, name, entry))


def remove_caller(file: Path, name: str, only: Mapping[str, object] | None = None) -> Change:
    """Remove a caller. Files that have its secrets stay, and are in `left`.

    With `only`, it is removed only if its entry is this one: so a command takes back what it has added. Raises
    EditError if there is no such caller.
    """
    with editing(file) as edit:
        entry = _find(edit, name)
        if only is not None and entry != only:
            raise EditError(f"{name} was changed meanwhile", "run breakglass keys list")
        _save(edit, lambda text: remove_text(text, name))
        return Change(left=tuple(path for kind in AUTH_METHODS for path in _texts(entry, f"{kind}_file")))


def add_secret(file: Path, name: str, secret: str) -> Change:
    """Give a caller one more secret, the newest; the others stay good.

    A caller whose secrets are in files gets a new file for it, beside the last one and with its owner and mode. Raises
    EditError if there is no such caller, and if its files are systemd's credentials, which only their own source can
    change.
    """
    return _change_secrets(file, name, lambda before: [*before, secret])


def drop_secret(file: Path, name: str, secret: str) -> None:
    """Take back a secret that `add_secret` gave, and remove the file that it made for it.

    Raises EditError if it is the only one. Otherwise as `add_secret`.
    """
    for path in _change_secrets(file, name, lambda before: [each for each in before if each != secret]).left:
        with contextlib.suppress(OSError):
            os.unlink(path)


def take_back(file: Path, name: str, secret: str) -> None:
    """End one secret of a caller, and the caller if it has no other one. Otherwise as `drop_secret`.

    What someone else has given the caller meanwhile stays. Nothing is changed where the secret is gone already.
    """
    with editing(file) as edit:
        entry = _entries(edit).get(name)
        if entry is None:
            return
        _, inline, contents = _read_entry(entry, name)
    secrets = [*inline, *contents.values()]
    if secrets == [secret]:
        remove_caller(file, name, only=entry)
    elif secret in secrets:
        drop_secret(file, name, secret)


def drop_old_secrets(file: Path, name: str) -> Change:
    """End all secrets of a caller but the newest, the last one. Otherwise as `add_secret`.

    Files of those that end stay, and are in `left`.
    """
    return _change_secrets(file, name, lambda before: before[-1:])


def read_secrets(file: Path, name: str) -> list[str]:
    """Return the secrets of a caller, oldest first. Raises EditError as `add_secret`."""
    with editing(file) as edit:
        _, inline, contents = _read_entry(_find(edit, name), name)
        return [*inline, *contents.values()]


def _entries(edit: Edit) -> dict[str, dict[str, Any]]:
    callers = parse_toml(edit.text, lambda _: "").data.get("callers", {})
    if not isinstance(callers, dict):
        raise EditError(f"{edit.path}: callers is not a table", "write [callers.NAME]")
    return {name: entry if isinstance(entry, dict) else {} for name, entry in callers.items()}


def _find(edit: Edit, name: str) -> dict[str, Any]:
    entries = _entries(edit)
    if name not in entries:
        raise EditError(f"{edit.path} has no caller {name}", f"use one of {', '.join(entries)}" if entries else "")
    return entries[name]


def _save(edit: Edit, change: Callable[[str], str]) -> None:
    try:
        text = change(edit.text)
    except Uneditable:
        message = f"{edit.path} has its callers in a form that this command can't change"
        raise EditError(message, "change it by hand; keys new NAME --print prints an entry") from None
    edit.save(text)


def _texts(entry: Mapping[str, Any], key: str) -> list[str]:
    value = entry.get(key, [])
    values = [value] if isinstance(value, str) else value
    return [text for text in values if isinstance(text, str)] if isinstance(values, list) else []


def _change_secrets(file: Path, name: str, change: Callable[[list[str]], Sequence[str]]) -> Change:
    with editing(file) as edit:
        kind, inline, contents = _read_entry(_find(edit, name), name)
        files = list(contents)
        before = [*inline, *contents.values()]
        wanted = change(before)
        if not wanted:
            raise EditError(f"{name} would have no secret left", f"end it with breakglass keys revoke {name}")
        new = list(dict.fromkeys(secret for secret in wanted if secret not in before))
        kept_paths = [path for path, secret in contents.items() if secret in wanted]
        values = {kind: [secret for secret in inline if secret in wanted]}
        made: list[str] = []
        try:
            if files:
                for secret in new:
                    _make_beside(files[-1], secret, made)
                values[f"{kind}_file"] = [*kept_paths, *made]
            else:
                values[kind] += new
            _save(edit, lambda text: set_lists(text, name, values))
        finally:
            if not edit.is_saved:
                for path in made:
                    with contextlib.suppress(OSError):
                        os.unlink(path)
        return Change(tuple(made), tuple(path for path in files if path not in kept_paths))


def _read_entry(entry: Mapping[str, Any], name: str) -> tuple[str, list[str], dict[str, str]]:
    """Return the key of a caller's secrets, those in the entry, and what each file has that it names."""
    kinds = [kind for kind in AUTH_METHODS if kind in entry or f"{kind}_file" in entry]
    if len(kinds) != 1:
        raise EditError(f"{name} has {len(kinds)} auth methods", "see the problems that breakglass check lists")
    files = _texts(entry, f"{kinds[0]}_file")
    return kinds[0], _texts(entry, kinds[0]), {path: _read_secret(name, path) for path in files}


def _read_secret(name: str, path: str) -> str:
    if path.startswith(CREDENTIALS):
        hint = "write the new one into a file beside its source, add that to the list in secret_file, and restart"
        raise EditError(f"the secret of {name} is a credential of systemd, which this command can't change", hint)
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise EditError(f'the secret of {name} in "{path}" can\'t be read: {why}', "check the file") from None


def _make_beside(path: str, secret: str, made: list[str]) -> None:
    """Write a secret into a new file beside another one, which is like that one, and add its path to `made`."""
    stem, _, number = path.rpartition(".")
    stem = stem if number.isdecimal() and stem else path
    count = 2
    while os.path.lexists(f"{stem}.{count}"):
        count += 1
    new = f"{stem}.{count}"
    try:
        with uninterrupted():
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            made.append(new)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            like(descriptor, Path(path), os.stat(path))
            file.write(f"{secret}\n")
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        message = f'the new secret can\'t be written to "{new}": {os.strerror(error.errno or 0)}'
        raise EditError(message, f"nothing was changed; check {os.path.dirname(os.path.abspath(new))}") from None
