"""`breakglass docs`: prints the documents of this version, without a network."""

import argparse
import json
import pydoc
import shutil
import sys
from importlib.resources import files

from .docs_text import lines_about, plain, render, section_with
from .output import DONE, CommandError, say, show

COMPLETIONS = {"bash": "breakglass.bash", "zsh": "_breakglass", "fish": "breakglass.fish"}  # as each shell looks for it
_FIRST = "runbook"  # searched first for a code, because it says what to do


def add_docs(parser: argparse.ArgumentParser) -> None:
    """Describe `docs`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a document (runbook) or a code (storage-hung)")
    parser.add_argument("section", nargs="*", metavar="SECTION", help="words of a heading: print only that section")
    parser.add_argument("--json", action="store_true", help="without NAME: print one line of JSON")
    parser.set_defaults(run=docs)


def add_completion(parser: argparse.ArgumentParser) -> None:
    """Describe `completion`."""
    parser.add_argument("shell", choices=tuple(COMPLETIONS), help="the shell")
    parser.set_defaults(run=completion)


def completion(arguments: argparse.Namespace) -> int:
    """Print what makes a shell complete the command line. `./dev generate` has made it from the parser."""
    show(files("breakglass.cli").joinpath("shell", COMPLETIONS[arguments.shell]).read_text("utf-8"))
    return DONE


def docs(arguments: argparse.Namespace) -> int:
    """Print the document that the arguments name, the lines about a code, or the list of all documents."""
    documents = read_documents()
    columns = min(80, shutil.get_terminal_size().columns)
    if arguments.json:
        if arguments.name is not None:
            raise CommandError("--json lists the documents, and prints none", f"leave out {arguments.name} or --json")
        rows = [{"name": name, "purpose": purpose(text)} for name, text in documents.items()]
        say(json.dumps({"documents": rows}))
        return DONE
    if arguments.name is None:
        lines = [f"| {name} | {purpose(text)} |" for name, text in documents.items()]
        show(render("\n".join(["| | |", "|---|---|", *lines]), columns))
        return DONE
    name = arguments.name.removeprefix("docs/").removesuffix(".md")
    if name in documents:
        words = " ".join(arguments.section)
        text = section_with(words, documents[name]) if words else documents[name]
        if not text:
            raise CommandError(f'no heading of {name} has "{words}"', f"breakglass docs {name} prints all of it")
        _show_page(render(text, columns))
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
