"""Printing for all commands, and the exception that ends a command."""

import os
import re
import sys
from collections.abc import Sequence
from typing import TextIO

from ..base.reasons import reason

# --- The exception that ends a command ---

__all__ = ["USAGE_CODE", "CommandError", "reason"]
USAGE_CODE = 2


class CommandError(Exception):
    """Raised if a command can't do its work. Says what is wrong and what to do, and has the exit code."""

    def __init__(self, message: str, hint: str = "", code: int = USAGE_CODE) -> None:
        super().__init__(message)
        self.message, self.hint, self.code = message, hint, code


# --- Printing for all commands, and their exit codes. No other file prints ---

DONE, FAILED, USAGE, UNREACHED, UNKNOWN, INTERRUPTED = 0, 1, 2, 3, 4, 130
EXIT_CODES = """\
exit codes:
  0    done
  1    failed, refused, busy or rejected, or the handler answered with an error
  2    wrong usage, setting or configuration; nothing was sent
  3    the handler or the host was not reached; nothing was sent
  4    the outcome is not known, or the verb is still running; send the same id again
       (even after Ctrl-C in a call, or in a drill that may have sent its cycle)
  130  ended with Ctrl-C in any other case
       (serve, demo, chat, and a call whose verb is done, end with the code of their work)
"""

# Control characters except newline and tab, which a terminal obeys, and bidi overrides, which can hide text.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Return `text` with control and bidi characters written out."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def say(text: str) -> None:
    """Print a line."""
    show(f"{text}\n")


def show(text: str, stream: TextIO | None = None) -> None:
    """Print text without a newline. A character that the stream can't encode becomes a question mark."""
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(visible(text).encode(encoding, "replace").decode(encoding), end="", file=stream, flush=True)


def show_table(rows: Sequence[Sequence[str]]) -> None:
    """Print each row on one line, in columns."""
    rows = [[word.replace("\n", r"\n").replace("\t", r"\t") for word in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        say("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())


def show_black_on_white(rows: Sequence[str]) -> None:
    """Print the rows of a drawing in two fixed colours, which a terminal's colour scheme can't change."""
    print("\n".join(f"\x1b[38;5;16;48;5;231m{row}\x1b[0m" for row in rows), flush=True)


def complain(message: str, hint: str = "") -> None:
    """Print an error or a warning, and its instruction, on stderr."""
    remark(f"breakglass: {message}" if message else "", hint)


def remark(message: str, hint: str = "") -> None:
    """Print a note and its details on stderr."""
    lines = [message] * bool(message) + [f"    {hint}"] * bool(hint)
    if lines:
        print(visible("\n".join(lines)), file=sys.stderr)


def show_waiting(text: str) -> None:
    """Show on a terminal what the command waits for. The next text replaces this one, and an empty text removes it."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"\r\x1b[K{visible(text)}", end="", file=sys.stderr, flush=True)


def has_person() -> bool:
    """Return whether a person can be asked, because standard input and output are a terminal."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def agrees(question: str) -> bool:
    """Ask a person, and return whether the answer is yes."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def flush_output() -> None:
    """Write what is buffered; raise BrokenPipeError if the reader has exited."""
    if sys.stdout is not None:
        sys.stdout.flush()


def drop_output() -> None:
    """Discard the buffered output, so that the interpreter does not report a closed pipe at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def version(number: str) -> int:
    """Print the version."""
    say(f"breakglass {number}")
    return DONE
