"""Writes, replaces and removes own files, for `breakglass keys` and `vm`. The configuration file is never changed.

Each function changes one file as a whole, or raises EditError or ConfigError and changes nothing. After a crash, either
the old or the new file exists. Two commands at the same time wait for each other. A change is refused if it causes a
problem that `breakglass check` does not find now. No function reloads the handler.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base.findings import ConfigError, Finding
from ..base.new_files import sync, write_new
from .callers import AUTH_METHODS
from .entries import OWN_FILES, NamedEntry, OwnFiles, list_entries
from .load import load_sources, parse_toml
from .new_file import entry_text
from .secret_files import describe_exposure, protect
from .sources import own_file, read_sources

_NEW = ".new"  # the dot keeps the file's name from being an entry's name


class EditError(Exception):
    """Raised if a file was not changed. Says what is wrong, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


_EDITOR = {"callers": "keys", "vms": "vm"}  # the command that changes the own files of a table
_TO_CHANGE = {"callers": "to change its key: breakglass keys rotate {0}", "vms": "to change it, edit {1}"}


def add_entry(config: Path, table: str, name: str, entry: Mapping[str, object]) -> None:
    """Write the own file of a new entry: `entry` has the keys of a table [TABLE.NAME].

    Raises EditError if an entry of that name exists, even in the configuration itself.
    """
    with _editing(config, table) as edit:
        if any(each.name == name for each in edit.entries):
            hint = _TO_CHANGE[table].format(name, own_file(config, table, name))
            raise EditError(f"there is a {edit.noun} {name}: {edit.find(name).entry.path}", hint)
        edit.put(name, entry)


def find_entry(config: Path, table: str, name: str) -> NamedEntry:
    """Return an entry that has its own file. Raises EditError."""
    with _editing(config, table) as edit:
        return edit.find(name)


def remove_entry(config: Path, table: str, name: str) -> Mapping[str, Any]:
    """Remove an entry's own file. Return its table, which can name secret files. They are not removed."""
    with _editing(config, table) as edit:
        found = edit.find(name).entry.data
        edit.put(name, None)
        return found


def add_secret(config: Path, name: str, secret: str) -> None:
    """Add a secret to a caller, as the newest. The others stay valid."""
    with _editing(config, "callers") as edit:
        table = edit.find(name).entry.data
        kind = method_setting(name, table)
        edit.put(name, _changed(table, {kind: [*texts_of(table, kind), secret]}))


def take_back(config: Path, name: str, secret: str) -> None:
    """Remove one secret of a caller, and the caller itself if it has no other secret.

    Secrets that were added since then stay. If the secret is already gone, nothing is changed.
    """
    with _editing(config, "callers") as edit:
        table = next((each.entry.data for each in edit.entries if each.name == name and each.has_file), {})
        for kind in AUTH_METHODS:
            if secret in (before := texts_of(table, kind)):
                left = [each for each in before if each != secret]
                edit.put(name, _changed(table, {kind: left}) if left or f"{kind}_file" in table else None)


def drop_old_secrets(config: Path, name: str) -> tuple[bool, tuple[str, ...]]:
    """Remove all secrets of a caller except the newest. That is the last one in its file, or in the last secret file.

    The newest replaces the one in the last secret file, so what names that file, such as client.toml, stays right.
    Return whether there was an older secret, and the files of the removed secrets, which are not deleted.
    """
    with _editing(config, "callers") as edit:
        table = edit.find(name).entry.data
        kind = method_setting(name, table)
        inline, files = texts_of(table, kind), texts_of(table, f"{kind}_file")
        if len(inline) + len(files) < 2:
            return False, ()
        kept, newest = [] if inline else files[-1:], inline[-1:]
        if inline and files and os.path.isfile(files[-1]) and not os.path.islink(files[-1]):
            kept, newest = files[-1:], []
        changed = _changed(table, {kind: newest, f"{kind}_file": kept})
        edit.put(name, changed, lambda: _replace(Path(kept[0]), inline[-1]) if inline and kept else None)
        return True, tuple(path for path in files if path not in kept)


def method_setting(name: str, table: Mapping[str, Any]) -> str:
    """Return the name of the setting with a caller's secrets. Raises EditError if there is not exactly one."""
    kinds = [kind for kind in AUTH_METHODS if kind in table or f"{kind}_file" in table]
    if len(kinds) != 1:
        raise EditError(
            f"{name} has {len(kinds)} auth methods", "run breakglass check, and correct the problems that it lists"
        )
    return kinds[0]


def texts_of(table: Mapping[str, Any], key: str) -> list[str]:
    """Return the texts of a setting, which is one text or a list. Other values are skipped."""
    value = table.get(key, [])
    values = [value] if isinstance(value, str) else value
    return [text for text in values if isinstance(text, str)] if isinstance(values, list) else []


def _changed(table: Mapping[str, object], changes: Mapping[str, list[str]]) -> dict[str, object]:
    """Return a caller's table with new lists. An empty list is left out. A list of one text becomes that text."""
    changed = {key: values[0] if len(values) == 1 else values for key, values in changes.items()}
    return {key: value for key, value in {**table, **changed}.items() if value or key not in changes}


class _Edit:
    """The entries of a table while one of them is changed, and `put`."""

    def __init__(self, config: Path, table: str) -> None:
        self._config, self._table, self.noun = config, table, OWN_FILES[table]
        self._sources = read_sources(config, os.environ)
        self._directory = Path(os.path.realpath(config.parent / f"{table}.d"))
        if exposure := describe_exposure(config, self._sources.status, os.environ):
            raise EditError(f"{config} is not safe: {exposure}", protect(str(config), self._sources.status))
        top = parse_toml(self._sources.text, lambda _: "")
        self.entries = list_entries(top, table, self._sources.own, str(config))

    def find(self, name: str) -> NamedEntry:
        """Return an entry that has its own file. Raises EditError."""
        found = [each for each in self.entries if each.name == name]
        if not found:
            names = " or ".join(each.name for each in self.entries)
            raise EditError(f"{self._config} has no {self.noun} {name}", f"use {names}")
        if not found[0].has_file:
            hint = f"change [{self._table}.{name}] there by hand"
            command = f"breakglass {_EDITOR[self._table]}"
            raise EditError(f"{name} is defined in {self._config}, which {command} does not change", hint)
        return found[0]

    def put(
        self, name: str, table: Mapping[str, object] | None, before_it_counts: Callable[[], None] = lambda: None
    ) -> None:
        """Write an entry's file, or remove it. Raises EditError."""
        text = None if table is None else entry_text(self._table, table)
        self._check(name, text)
        new, file = self._directory / _NEW, self._directory / own_file(self._config, self._table, name).name
        try:
            if text is not None:
                self._write(new, text, file if file.exists() else self._config)
            self._refuse_changed()
            before_it_counts()
            if text is None:
                file.unlink()
            elif name in self._sources.own[self._table]:
                new.rename(file)
            else:
                os.link(new, file)  # link(2) never replaces a file
            with contextlib.suppress(OSError):  # the change is already in force, even if this sync fails
                sync(self._directory)
        finally:
            with contextlib.suppress(OSError):
                new.unlink()

    def _check(self, name: str, text: str | None) -> None:
        own = self._sources.own
        others = {other: content for other, content in own[self._table].items() if other != name}
        changed = others if text is None else {**others, name: text}
        after, known = self._problems({**own, self._table: changed}), self._problems(own)
        if new := [problem for problem in after if problem not in known]:
            lines = "; ".join(f"{problem.place} {problem.sentence}" for problem in new)
            raise EditError(f"{self._config} would get a new problem: {lines}", f"nothing was changed; {new[0].fix}")

    def _problems(self, own: OwnFiles) -> list[Finding]:
        try:
            return list(load_sources(replace(self._sources, own=own), os.environ).problems)
        except ConfigError as error:
            return error.problems

    def _write(self, new: Path, text: str, model: Path) -> None:
        """Write a new file with the owner and mode of another one."""
        if not self._directory.is_dir():
            _make_directory(self._directory, self._sources.status)
        new.unlink(missing_ok=True)  # a command that was killed may have left this file
        status = model.stat()
        write_new(new, text, status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))

    def _refuse_changed(self) -> None:
        """Raise EditError if a person, or another program, has changed the configuration or an own file."""
        now = read_sources(self._config, os.environ)
        if (now.text, now.own) != (self._sources.text, self._sources.own):
            sentence = f"{self._config}, or files beside it, were changed at the same time"
            raise EditError(sentence, "run this command again")


def _replace(file: Path, secret: str) -> None:
    """Write another secret into a secret file, as a whole and with the owner and mode that it has."""
    new, status = file.with_name(f".{file.name}{_NEW}"), file.stat()
    new.unlink(missing_ok=True)
    write_new(new, f"{secret}\n", status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    new.rename(file)
    sync(file.parent)


def _make_directory(directory: Path, config: os.stat_result) -> None:
    """Create a directory of own files. Users that may read the configuration may enter it."""
    directory.mkdir(0o700)
    os.chown(directory, config.st_uid, config.st_gid)
    directory.chmod(0o750 if config.st_mode & stat.S_IRGRP else 0o700)
    sync(directory.parent)


@contextlib.contextmanager
def _editing(config: Path, table: str) -> Iterator[_Edit]:
    """Return the entries of a table for a change, and hold the lock that makes other commands wait."""
    try:
        directory = os.open(config.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield _Edit(config, table)
        finally:
            os.close(directory)
    except OSError as error:
        place = config.parent / f"{table}.d"
        hint = f"nothing was changed; root or the owner of {place} can, if its disk is neither full nor read-only"
        raise EditError(f"{place} can't be changed: {os.strerror(error.errno or 0)}", hint) from None
