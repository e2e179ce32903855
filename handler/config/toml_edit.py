"""Changes one caller in the text of a configuration, and leaves every other character as it is. Pure.

What a person wrote around an entry, comments, order, line ends, stays. Each result is parsed again: it has to have the
same data as before, but for the change. A text in a form that can't be changed so raises Uneditable.
"""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Array

from .new_file import toml_key

Data = dict[str, Any]
_HEADER = re.compile(r"^[ \t]*\[.*\n?", re.MULTILINE)


class Uneditable(ValueError):
    """Raised for a text whose form can't be edited."""


class _Section(NamedTuple):
    """A table with a header of its own, as offsets in the text: `[start, end)` without the comments that stay."""

    path: tuple[str, ...]
    start: int
    end: int


def entry_text(name: str, entry: Mapping[str, object]) -> str:
    """Return the table of a caller, with a newline at its end. Values are text, lists of text, numbers and times."""
    lines = [f"{key} = {tomlkit.item(value).as_string()}" for key, value in entry.items()]
    return "\n".join([f"[callers.{toml_key(name)}]", *lines]) + "\n"


def insert_caller(text: str, name: str, entry: Mapping[str, object]) -> str:
    """Return the text with another caller, after the last one. Raises Uneditable."""
    expected = tomllib.loads(text)
    if not isinstance(expected.setdefault("callers", {}), dict):
        raise Uneditable
    expected["callers"][name] = dict(entry)

    def as_table() -> str:
        sections = list(_sections(text))
        ends = [section.end for section in sections if section.path[0] == "callers"]
        at = ends[-1] if ends else len(text)
        before, after = text[:at], text[at:]
        first = "" if not before else "\n" if before.endswith("\n") else "\n\n"
        last = "" if not after or re.match(r"\r?\n", after) else "\n"
        return before + first + entry_text(name, entry) + last + after

    def in_line() -> str:
        document = _parse(text)
        inline = tomlkit.inline_table()
        inline.update(entry)
        document["callers"][name] = inline
        return document.as_string()

    return _first_good(text, expected, as_table, in_line)


def remove_caller(text: str, name: str) -> str:
    """Return the text without a caller. Comments before its header and after its last line stay. Raises Uneditable."""
    expected = tomllib.loads(text)
    del expected["callers"][name]

    def tables() -> str:
        changed = text
        for section in reversed(list(_sections(text))):
            if section.path[:2] == ("callers", name):
                changed = _cut(changed, section)
        return changed

    def without_header() -> str:
        document = _parse(text)
        del document["callers"][name]
        return document.as_string()

    return _first_good(text, expected, tables, without_header)


def set_lists(text: str, name: str, values: Mapping[str, Sequence[str]]) -> str:
    """Return the text in which keys of a caller have these texts, one or a list; an empty list removes the key.

    A list stays a list, with the comments in it. Raises Uneditable.
    """
    expected = tomllib.loads(text)
    for key, wanted in values.items():
        was = expected["callers"][name].pop(key, None)
        if wanted:
            is_list = isinstance(was, list) or len(wanted) > 1
            expected["callers"][name][key] = list(wanted) if is_list else wanted[0]

    def edit() -> str:
        document = _parse(text)
        entry: Any = document["callers"][name]
        for key, wanted in values.items():
            if not wanted:
                entry.pop(key, None)
            elif isinstance(entry.get(key), Array):
                _change_array(entry[key], wanted)
            else:
                entry[key] = wanted[0] if len(wanted) == 1 else list(wanted)
        return document.as_string()

    return _first_good(text, expected, edit)


def _parse(text: str) -> tomlkit.TOMLDocument:
    document = tomlkit.parse(text)
    if document.as_string() != text:
        raise Uneditable
    return document


def _cut(text: str, section: _Section) -> str:
    before, after = text[: section.start], text[section.end :]
    blank = re.match(r"[ \t]*\r?\n", after)
    if blank and (not before or re.search(r"\n[ \t]*\r?\n\Z", before)):
        after = after[blank.end() :]
    elif after and not blank and before.rpartition("\n")[0].rpartition("\n")[2].lstrip().startswith("#"):
        after = "\n" + after  # a comment above this caller must not become the next table's
    return before + after if after else before.rstrip() + "\n"


def _change_array(array: Array, wanted: Sequence[str]) -> None:
    for index in reversed(range(len(array))):
        if array[index] not in wanted:
            del array[index]
    for text in wanted[len(array) :]:
        array.append(text)


def _first_good(text: str, expected: Data, *ways: Callable[[], str]) -> str:
    """Return the first result that has the expected data, with the line ends of the text."""
    for way in ways:
        try:
            changed = _with_line_ends_of(text, way())
            if _without_empty(tomllib.loads(changed)) == _without_empty(expected):
                return changed
        except (ValueError, TypeError, KeyError, TOMLKitError):  # this way is not for this form
            continue
    raise Uneditable


def _without_empty(data: Data) -> Data:
    return {key: value for key, value in data.items() if key != "callers" or value}


def _with_line_ends_of(text: str, changed: str) -> str:
    is_dos = "\r\n" in text and not re.search(r"(?<!\r)\n", text)
    return re.sub(r"(?<!\r)\n", "\r\n", changed) if is_dos else changed


def _sections(text: str) -> Iterator[_Section]:
    """Yield each table with a header, in the order of the text."""
    headers: list[re.Match[str]] = []
    for match in _HEADER.finditer(text):
        if _is_whole(text[headers[-1].start() if headers else 0 : match.start()]):
            headers.append(match)
    for index, match in enumerate(headers):
        end = headers[index + 1].start() if index + 1 < len(headers) else len(text)
        yield _Section(_path(match[0]), match.start(), _own_end(text, match.end(), end))


def _is_whole(text: str) -> bool:
    """Tell whether a text that begins with a table ends outside of a value: what then looks like a header is one."""
    try:
        tomllib.loads(text)
    except ValueError:
        return False
    return True


def _path(header: str) -> tuple[str, ...]:
    """Return the keys in a header, which may be that of an array."""
    found: list[str] = []
    data: object = tomllib.loads(header)
    while isinstance(data, dict | list) and data:
        if isinstance(data, dict):
            found.append(next(iter(data)))
        data = data[found[-1]] if isinstance(data, dict) else data[0]
    return tuple(found)


def _own_end(text: str, start: int, end: int) -> int:
    """Return where a table ends. Comments that follow its last line without a gap are its own, if a gap follows them.

    Other comments and blank lines belong to what comes next.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", text[start:end])
    last = len(lines)
    while last and re.match(r"[ \t]*(#|\r?\n?\Z)", lines[last - 1]):
        last -= 1
    own = last
    while own < len(lines) and lines[own].strip():
        own += 1
    if own == len(lines) and end < len(text):  # no gap: they stand right above the next header
        own = last
    return start + sum(map(len, lines[:own]))
