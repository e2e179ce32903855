"""Writes, replaces and removes callers' own files, for `breakglass keys`. The configuration file is never changed.

Each function changes one file as a whole, or raises EditError or ConfigError and changes nothing. After a crash, either
the old or the new file exists. Two commands at the same time wait for each other. A change is refused if it causes a
problem that `breakglass check` does not find now. No function reloads the handler.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base.findings import ConfigError, Finding
from ..base.new_files import sync, write_new
from .callers import AUTH_METHODS, DIRECTORY, CallerEntry, list_callers
from .load import load_sources, parse_toml
from .new_file import caller_text
from .sources import caller_file, describe_exposure, protect, read_sources

_NEW = ".new"  # the dot keeps the file's name from being a caller's name


class EditError(Exception):
    """Raised if a file was not changed. Says what is wrong, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def add_caller(config: Path, name: str, entry: Mapping[str, object]) -> None:
    """Write the file of a new caller: `entry` has the keys of a table [callers.NAME].

    Raises EditError if a caller of that name exists, even in the configuration itself.
    """
    with _editing(config) as edit:
        if any(each.name == name for each in edit.entries):
            hint = f"to change its key: breakglass keys rotate {name}"
            raise EditError(f"there is a caller {name}: {edit.find(name).entry.path}", hint)
        edit.put(name, entry)


def remove_caller(config: Path, name: str) -> tuple[str, ...]:
    """Remove a caller's file. Return the secret files that it named. They are not removed."""
    with _editing(config) as edit:
        table = edit.find(name).entry.data
        edit.put(name, None)
        return tuple(path for kind in AUTH_METHODS for path in texts_of(table, f"{kind}_file"))


def add_secret(config: Path, name: str, secret: str) -> None:
    """Add a secret to a caller, as the newest. The others stay valid."""
    with _editing(config) as edit:
        table = edit.find(name).entry.data
        kind = method_setting(name, table)
        edit.put(name, _changed(table, {kind: [*texts_of(table, kind), secret]}))


def take_back(config: Path, name: str, secret: str) -> None:
    """Remove one secret of a caller, and the caller itself if it has no other secret.

    Secrets that were added since then stay. If the secret is already gone, nothing is changed.
    """
    with _editing(config) as edit:
        table = next((each.entry.data for each in edit.entries if each.name == name and each.has_file), {})
        for kind in AUTH_METHODS:
            if secret in (before := texts_of(table, kind)):
                left = [each for each in before if each != secret]
                edit.put(name, _changed(table, {kind: left}) if left or f"{kind}_file" in table else None)


def drop_old_secrets(config: Path, name: str) -> tuple[bool, tuple[str, ...]]:
    """Remove all secrets of a caller except the newest. That is the last one in its file, or in the last secret file.

    Return whether there was an older secret, and the files of the removed secrets, which are not deleted.
    """
    with _editing(config) as edit:
        table = edit.find(name).entry.data
        kind = method_setting(name, table)
        inline, files = texts_of(table, kind), texts_of(table, f"{kind}_file")
        kept = [] if inline else files[-1:]
        if len(inline) + len(files) < 2:
            return False, ()
        edit.put(name, _changed(table, {kind: inline[-1:], f"{kind}_file": kept}))
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
    """The callers while one of them is changed: their entries, and `put`."""

    def __init__(self, config: Path) -> None:
        self._config, self._sources = config, read_sources(config, os.environ)
        self._directory = Path(os.path.realpath(config.parent / DIRECTORY))
        if exposure := describe_exposure(config, self._sources.status, os.environ):
            raise EditError(f"{config} is not safe: {exposure}", protect(str(config), self._sources.status))
        top = parse_toml(self._sources.text, lambda _: "")
        self.entries = list_callers(top, self._sources.callers, str(config))

    def find(self, name: str) -> CallerEntry:
        """Return the entry in a caller's own file. Raises EditError."""
        found = [each for each in self.entries if each.name == name]
        if not found:
            names = " or ".join(each.name for each in self.entries)
            raise EditError(f"{self._config} has no caller {name}", f"use {names}")
        if not found[0].has_file:
            hint = f"change [callers.{name}] there by hand"
            raise EditError(f"{name} is defined in {self._config}, which breakglass keys does not change", hint)
        return found[0]

    def put(self, name: str, table: Mapping[str, object] | None) -> None:
        """Write a caller's file, or remove it. Raises EditError."""
        text = None if table is None else caller_text(table)
        self._check(name, text)
        new, file = self._directory / _NEW, self._directory / caller_file(self._config, name).name
        try:
            if text is not None:
                self._write(new, text, file if file.exists() else self._config)
            self._refuse_changed()
            if text is None:
                file.unlink()
            elif name in self._sources.callers:
                new.rename(file)
            else:
                os.link(new, file)  # link(2) never replaces a file
            with contextlib.suppress(OSError):  # the change is already in force, even if this sync fails
                sync(self._directory)
        finally:
            with contextlib.suppress(OSError):
                new.unlink()

    def _check(self, name: str, text: str | None) -> None:
        callers = {other: content for other, content in self._sources.callers.items() if other != name}
        after = self._problems(callers if text is None else {**callers, name: text})
        known = self._problems(self._sources.callers)
        if new := [problem for problem in after if problem not in known]:
            lines = "; ".join(f"{problem.place} {problem.sentence}" for problem in new)
            raise EditError(f"{self._config} would get a new problem: {lines}", f"nothing was changed; {new[0].fix}")

    def _problems(self, callers: Mapping[str, str | Finding]) -> list[Finding]:
        try:
            return list(load_sources(replace(self._sources, callers=callers), os.environ).problems)
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
        """Raise EditError if a person, or another program, has changed the configuration or a caller's file."""
        now = read_sources(self._config, os.environ)
        if (now.text, now.callers) != (self._sources.text, self._sources.callers):
            raise EditError(f"the callers of {self._config} were changed at the same time", "run this command again")


def _make_directory(directory: Path, config: os.stat_result) -> None:
    """Create the directory of callers. Users that may read the configuration may enter it."""
    directory.mkdir(0o700)
    os.chown(directory, config.st_uid, config.st_gid)
    directory.chmod(0o750 if config.st_mode & stat.S_IRGRP else 0o700)
    sync(directory.parent)


@contextlib.contextmanager
def _editing(config: Path) -> Iterator[_Edit]:
    """Return the callers for a change, and hold the lock that makes other commands wait."""
    try:
        directory = os.open(config.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield _Edit(config)
        finally:
            os.close(directory)
    except OSError as error:
        place = config.parent / DIRECTORY
        hint = f"nothing was changed; root or the owner of {place} can, if its disk is neither full nor read-only"
        raise EditError(f"{place} can't be changed: {os.strerror(error.errno or 0)}", hint) from None
