"""Texts that the commands print. They are separate files so that shellcheck and other checkers can read them.

In a template, @NAME@ is a placeholder. Lines between `#if name` and `#end` are kept only if the name is chosen. Lines
between `#else` and `#end` are kept only if the name is not chosen.
"""

import re
from collections.abc import Collection
from importlib.resources import files

_CHOICE = re.compile(r"^#if (\w+)\n(.*?)(?:^#else\n(.*?))?^#end\n", re.MULTILINE | re.DOTALL)
_PLACEHOLDER = re.compile(r"@([A-Z_]+)@")


def read_template(path: str) -> str:
    """Return the template at `path` below the handler's package."""
    return (files(__package__.partition(".")[0]) / path).read_text(encoding="utf-8")


def choose(template: str, chosen: Collection[str]) -> str:
    """Return the template without the lines that `chosen` leaves out."""
    return _CHOICE.sub(lambda found: found[2] if found[1] in chosen else found[3] or "", template)


def fill(template: str, **values: object) -> str:
    """Return the template with each placeholder replaced; placeholders inside a value are not replaced."""
    return _PLACEHOLDER.sub(lambda found: str(values[found[1].lower()]), template)
