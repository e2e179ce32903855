"""`breakglass docs`: the documents of this version, without a network."""

import argparse
import re
from importlib.resources import files

from .output import DONE, CommandError, say, show

_PURPOSE = re.compile(r"# [^\n]*\n\n(?:For .+?\. Afterwards )?(.+?\.)\s", re.DOTALL)


def docs(arguments: argparse.Namespace) -> int:
    """Print the document that the arguments name, or the list of all."""
    documents = read_documents()
    if arguments.name is None:
        width = max(map(len, documents), default=0)
        for name, text in documents.items():
            say(f"{name:{width}}  {purpose(text)}")
        return DONE
    name = arguments.name.removeprefix("docs/").removesuffix(".md")
    if name not in documents:
        raise CommandError(f'there is no document "{name}"', f"use one of {', '.join(documents)}")
    show(documents[name])
    return DONE


def read_documents() -> dict[str, str]:
    """Return the text of each document by its name, in the order of the names."""
    try:
        found = [entry for entry in files("breakglass.docs").iterdir() if entry.name.endswith(".md")]
    except ModuleNotFoundError:
        hint = "install Breakglass from its wheel"
        raise CommandError("the documents are not installed", hint) from None
    return {entry.name.removesuffix(".md"): entry.read_text("utf-8") for entry in sorted(found, key=lambda e: e.name)}


def purpose(text: str) -> str:
    """Return what the first paragraph says that a reader has or knows afterwards."""
    found = _PURPOSE.match(text)
    words = " ".join(found[1].split()) if found else ""
    return words[:1].upper() + words[1:]
