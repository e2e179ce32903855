"""Reads TOML tables as typed values. A value of the wrong type is a problem with its key's path, not an exception.

Pure, except that `read` reads the files that keys name.
"""

import tomllib
from collections.abc import Callable
from typing import Any, TypeGuard

from ..base.findings import ConfigError, Finding, error

Read = Callable[[str], str]  # reads the file that a setting names; raises ConfigError

# The default codes of problems, by the first word of their place.
CODES = {"callers": "caller-disabled", "hosts": "host-disabled", "vms": "vm-disabled", "sessions": "session-secret"}
CODES |= {"server": "server-setting", "alerts": "alert-disabled", "chat": "chat-setting", "metrics": "metrics-setting"}
CODES |= {"notify": "notify-disabled"}


class Entry:
    """One table of the file and the problems in it.

    `faults` has the entry's own problems, and `problems` the problems of all entries. An entry remembers which keys
    were read. `report_unknown` reports every key that was not read, so call it last.
    """

    def __init__(
        self, data: dict[str, Any], read: Read, problems: list[Finding], path: str = "", separator: str = "."
    ) -> None:
        self.data, self.path, self.problems = data, path, problems
        self.faults: list[Finding] = []
        self._read, self._separator = read, separator
        self._known: dict[str, None] = {}

    @property
    def is_faulty(self) -> bool:
        """Return whether the entry itself has a problem."""
        return bool(self.faults)

    def part(self) -> "Entry":
        """Return the same table as a separate entry, whose problems do not make this entry faulty."""
        part = Entry(self.data, self._read, self.problems, self.path, self._separator)
        part._known = self._known
        return part

    def problem(self, key: str, sentence: str, fix: str, code: str = "") -> None:
        """Record a problem with a key. An empty key means the whole entry. Without a code, the table's is used."""
        place = self._join(key)
        code = code or CODES.get(place.partition(".")[0].partition("[")[0], "setting")
        self.faults.append(error(place, code, sentence, fix))
        self.problems.append(self.faults[-1])

    def _join(self, key: str) -> str:
        return f"{self.path}{self._separator}{key}" if self.path and key else self.path or key

    def read_as(self, text: str, path: str) -> "Entry":
        """Return the text of another file as an entry with this path, or a faulty entry if it is not TOML."""
        entry = Entry({}, self._read, self.problems, path, ": ")
        try:
            entry.data = tomllib.loads(text)
        # tomllib raises other errors for a huge number and for deep nesting
        except (ValueError, RecursionError) as fault:
            entry.problem("", f"is not TOML: {fault}", "check its quotes and brackets")
        return entry

    def report_unknown(self) -> None:
        """Record a problem for each key that was not read."""
        for key in sorted(self.data.keys() - self._known.keys()):
            self.problem(
                key, "is not a setting", f"use one of {', '.join(self._known)}, or take it out", "unknown-setting"
            )

    # --- values ---

    def has(self, *keys: str) -> bool:
        """Tell whether the table has one of these keys."""
        self._known |= dict.fromkeys(keys)
        return any(key in self.data for key in keys)

    def get(self, key: str, default: object = None) -> Any:
        """Return a value of any type."""
        self._known[key] = None
        return self.data.get(key, default)

    def get_str(self, key: str, default: str = "") -> str:
        """Return a text; a value of another type is a problem."""
        value = self.get(key, default)
        if isinstance(value, str):
            return value
        self.problem(key, f"is not text: {quoted(value)}", "put it in quotes")
        return default

    def get_number(self, key: str, default: int, least: int, most: int) -> int:
        """Return a whole number. A number out of bounds is a problem."""
        value = self.get(key, default)
        if is_number(value) and least <= value <= most:
            return value
        hint = f"write it without quotes, like {key} = {default}"
        self.problem(key, f"is not a number from {least} to {most}: {quoted(value)}", hint)
        return default

    def get_flag(self, key: str, default: bool = False) -> bool:
        """Return true or false; the default if the key is missing."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            self.problem(
                key,
                f"is not true or false: {quoted(value)}",
                f"write {key} = {str(not default).lower()}, without quotes",
            )
        return value is True

    def get_strs(self, key: str) -> tuple[str, ...]:
        """Return a list of texts. A single text counts as a list. Problems quote no value, which can be a secret."""
        value = self.get(key, [])
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list) and all(isinstance(item, str) for item in values):
            return tuple(values)
        self.problem(key, "is not text or a list of texts", f'write {key} = ["…"]')
        return ()

    def get_choices(self, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
        """Return a list of known words; a missing list is a problem, and so is an unknown word."""
        words = self.get_strs(key)
        if not words and self.data.get(key, []) in ([], ""):
            self.problem(key, "is missing", f"name some of {', '.join(known)}")
        for word in words:
            if word not in known:
                self.problem(key, f"has an unknown word: {quoted(word)}", f"use {', '.join(known)}")
        return words

    # --- tables ---

    def get_table(self, key: str) -> "Entry":
        """Return a table as an entry, empty if it is missing. A value of another type is a faulty entry."""
        return self._entry(key, self.get(key, {}), f"[{key}]")

    def get_tables(self, key: str, fix: str = "") -> dict[str, "Entry"]:
        """Return the entries of a table of tables by name. `fix` says how to add the first one."""
        table = self.get_table(key)
        if not table.data and not table.is_faulty:
            self.problem(key, "is empty", fix or f"add at least one [{key}.NAME]")
        return {name: table._entry(name, value, f"[{key}.{name}]") for name, value in table.data.items()}

    def get_list(self, key: str) -> list["Entry"]:
        """Return the entries of an array of tables."""
        values = self.get(key, [])
        if not isinstance(values, list):
            self.problem(key, f"is not a list of tables: {quoted(values)}", f"write [[{key}]] above each")
            return []
        return [self._entry(f"{key}[{n}]", value, f"[[{key}]] above each") for n, value in enumerate(values)]

    def _entry(self, key: str, value: object, header: str) -> "Entry":
        entry = Entry(value if isinstance(value, dict) else {}, self._read, self.problems, self._join(key))
        if not isinstance(value, dict):
            shown = "text" if isinstance(value, str) else quoted(value)  # not shown, because a text can be a secret
            entry.problem("", f"is not a table: {shown}", f"write {header}")
        return entry

    # --- secrets ---

    def secrets(self, key: str, fix: str = "") -> list[tuple[str, str]]:
        """Return each secret with the name of its file, which is empty for a secret in the table itself.

        It is a problem if there is none. `fix` replaces the usual fix for that.
        """
        before = len(self.problems)
        found = [("", secret) for secret in self.get_strs(key)]
        found += [(file, self.file(f"{key}_file", file)) for file in self.get_strs(f"{key}_file")]
        secrets = [(file, secret) for file, secret in found if secret]
        if not secrets and len(self.problems) == before:
            self.problem(key, "is missing", fix or f"give {key} or {key}_file")
        return secrets

    def file(self, key: str, file: str) -> str:
        """Return the contents of the file that a key names. An unreadable or empty file is a problem."""
        try:
            found = self._read(file).strip()
        except ConfigError as unusable:
            for each in unusable.problems:
                self.problem(key, each.sentence, each.fix, each.code)
            return ""
        if not found:
            self.problem(key, f'is empty: "{file}"', "write the secret into it", "file-empty")
        return found


def is_number(value: object) -> TypeGuard[int]:
    """Tell whether a value is a whole number, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def in_file(name: str) -> str:
    """Return the end of a sentence about a secret: the name of its file, if it has one."""
    return f' in "{name}"' if name else ""


def quoted(value: object) -> str:
    """Return a value as a problem shows it: a list or a table by its type, other values cut."""
    match value:
        case str():
            return f'"{value[:40]}"'
        case list() | dict():
            return "a list" if isinstance(value, list) else "a table"
        case bool():
            return "true" if value else "false"
        case int():
            # Python refuses to format the longest numbers
            return str(value) if abs(value) < 10**40 else "a huge number"
    return str(value)[:40]
