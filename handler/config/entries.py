"""Entries of the configuration that may have own files, which are callers (callers.d) and VMs (vms.d). Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from ..base.findings import Finding
from .reader import Entry

SUFFIX = ".toml"
OWN_FILES = {"callers": "caller", "vms": "VM"}  # the tables whose entries may have own files, and what an entry is
OwnFiles = Mapping[str, Mapping[str, str | Finding]]  # by table and name: the text of the own file, or its problem


class NamedEntry(NamedTuple):
    """An entry of a table in OWN_FILES, in the configuration or in its own file."""

    name: str
    entry: Entry
    has_file: bool


def own_path(table: str, name: str) -> str:
    """Return the path of an entry's own file, from the directory of the configuration."""
    return f"{table}.d/{name}{SUFFIX}"


def list_entries(top: Entry, table: str, files: OwnFiles, main: str, fix: str = "") -> list[NamedEntry]:
    """Return the entries of a table that may have own files. `main` is the name of the configuration.

    If no entry has an own file, a missing table is a problem. `fix` says how to add the first entry.
    """
    own = files.get(table, {})
    tables = top.get_tables(table, fix) if top.get(table) or not own else {}
    found = [NamedEntry(name, entry, False) for name, entry in tables.items()]
    for name, text in own.items():
        path = own_path(table, name)
        entry = top.read_as(text if isinstance(text, str) else "", path)
        if isinstance(text, Finding):
            entry.problem("", text.sentence, text.fix, text.code)
        if name in tables:
            hint = f"remove [{tables[name].path}] from {main}, or {path}"
            sentence = f"is in {main} and in {path}, so the {OWN_FILES[table]} is disabled"
            tables[name].problem("", sentence, hint)
            entry.faults += tables[name].faults
        found.append(NamedEntry(name, entry, True))
    return found
