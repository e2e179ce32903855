"""`breakglass docs`: prints the documents of this version, without a network."""

import argparse
import pydoc
import shutil
import sys
from importlib.resources import files

from .docs_text import lines_about, plain, render
from .output import DONE, CommandError, show

_FIRST = "runbook"  # searched first for a code, because it says what to do


def docs(arguments: argparse.Namespace) -> int:
    """Print the document that the arguments name, the lines about a code, or the list of all documents."""
    documents = read_documents()
    columns = min(80, shutil.get_terminal_size().columns)
    if arguments.name is None:
        rows = [f"| {name} | {purpose(text)} |" for name, text in documents.items()]
        show(render("\n".join(["| | |", "|---|---|", *rows]), columns))
        return DONE
    name = arguments.name.removeprefix("docs/").removesuffix(".md")
    if name in documents:
        _show_page(render(documents[name], columns))
        return DONE
    about = lines_about(name, {_FIRST: documents.get(_FIRST, ""), **documents})
    if not about:
        hint = f"breakglass docs runbook has the codes; the documents are {', '.join(documents)}"
        raise CommandError(f'there is no document and no code "{name}"', hint)
    show(render(about, columns))
    return DONE


def _show_page(text: str) -> None:
    """Print a page; on a terminal, with $PAGER."""
    if sys.stdout is not None and sys.stdout.isatty():
        pydoc.pager(text)
    else:
        show(text)


def read_documents() -> dict[str, str]:
    """Return the text of each document by name, sorted by name."""
    try:
        found = [entry for entry in files("breakglass.docs").iterdir() if entry.name.endswith(".md")]
    except ModuleNotFoundError:
        hint = "install Breakglass from its wheel"
        raise CommandError("the documents are not installed", hint) from None
    return {entry.name.removesuffix(".md"): entry.read_text("utf-8") for entry in sorted(found, key=lambda e: e.name)}


def purpose(text: str) -> str:
    """Return the first sentence of a document, which says what the page is."""
    first = text.split("\n\n")[1] if "\n\n" in text else ""
    return plain(" ".join(first.split())).partition(". ")[0].rstrip(".")
