"""TOML tables, read with patience: a value of the wrong shape is a problem with its key's path, not an exception.

Pure but for reading the files that secrets may be in, through `read`.
"""

from collections.abc import Callable
from typing import Any

from .problems import Problem

Read = Callable[[str], str]
Table = dict[str, Any]


class Tables:
    """The whole file's tables and the problems found in them so far."""

    def __init__(self, data: Table, read: Read) -> None:
        self.data = data
        self.read = read
        self.problems: list[Problem] = []

    # --- shapes ---

    def get_tables(self, name: str) -> dict[str, Table | None]:
        """Return the entries of a table of tables; None for one that is something else."""
        before = len(self.problems)
        table = self.get_table(name)
        if not table and len(self.problems) == before:
            self.problem(name, "is empty", f"at least one [{name}.NAME] is needed")
        found = {key: value if isinstance(value, dict) else None for key, value in table.items()}
        for key in [key for key, value in found.items() if value is None]:
            self.problem(f"{name}.{key}", "is not a table", f"write [{name}.{key}]")
        return found

    def get_table(self, name: str) -> Table:
        value = self.data.get(name, {})
        if isinstance(value, dict):
            return value
        self.problem(name, "is not a table", f"write [{name}]")
        return {}

    def get_str(self, path: str, table: Table, key: str, default: str) -> str:
        value = table.get(key, default)
        if isinstance(value, str):
            return value
        self.problem(f"{path}.{key}", "is not text", "put it in quotes")
        return default

    def get_strs(self, path: str, table: Table, key: str) -> tuple[str, ...]:
        """Return a list of texts; one text alone counts as a list of one."""
        value = table.get(key, [])
        values = [value] if isinstance(value, str) else value
        if isinstance(values, list) and all(isinstance(item, str) for item in values):
            return tuple(values)
        self.problem(f"{path}.{key}", "is not text or a list of texts", f'like {key} = ["…"]')
        return ()

    def get_choices(self, path: str, table: Table, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
        before = len(self.problems)
        words = self.get_strs(path, table, key)
        if not words and len(self.problems) == before:
            self.problem(f"{path}.{key}", "is missing", f"some of {', '.join(known)}")
        for word in words:
            if word not in known:
                self.problem(f"{path}.{key}", f'has an unknown word "{word}"', f"one of {', '.join(known)}")
        return words

    def unknown(self, path: str, table: Table, known: tuple[str, ...]) -> None:
        for key in sorted(table.keys() - set(known)):
            self.problem(f"{path}.{key}".lstrip("."), "is not a setting", f"one of {', '.join(known)}")

    def problem(self, path: str, message: str, hint: str = "") -> None:
        self.problems.append(Problem(path, message, hint))

    # --- secrets ---

    def secrets(self, path: str, table: Table, name: str) -> list[str]:
        """Return the secrets given inline (one or a list) or as files; a problem when there are none."""
        return [secret for _, secret in self.secrets_with_source(path, table, name)]

    def secrets_with_source(self, path: str, table: Table, name: str) -> list[tuple[str, str]]:
        """Return each secret after the words that name its file; after an empty text if it stands in the table."""
        before = len(self.problems)
        found = [("", secret) for secret in self.get_strs(path, table, name)]
        files = self.get_strs(path, table, f"{name}_file")
        found += [(f' in "{file}"', self.file(f"{path}.{name}_file", file)) for file in files]
        secrets = [(source, secret) for source, secret in found if secret]
        if not secrets and len(self.problems) == before:
            self.problem(f"{path}.{name}", "is missing", f"give {name} or {name}_file")
        return secrets

    def file(self, path: str, file: str) -> str:
        """Return what is in the file; a problem when it can't be read, and when it is empty: half written, say."""
        try:
            found = self.read(file).strip()
        except (OSError, ValueError) as error:
            self.problem(path, f'can\'t be read: "{file}": {error}', "check the path and its owner")
            return ""
        if not found:
            self.problem(path, f'is empty: "{file}"', "write the secret into it")
        return found
