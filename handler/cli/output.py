"""Printing for all commands, and the exception that ends a command."""

import argparse
import contextlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, TextIO

from ..agents.pve.words import VERSION
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


def say(text: str, tone: str = "") -> None:
    """Print a line, on a terminal in the colour of its tone: good, warning or bad."""
    show(f"{text}\n", tone=tone)


def show(text: str, stream: TextIO | None = None, tone: str = "") -> None:
    """Print text without a newline. A character that the stream can't encode becomes a question mark."""
    stream = stream or sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    _print(visible(text).encode(encoding, "replace").decode(encoding), stream, tone)


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
        _print(visible("\n".join(lines)) + "\n", sys.stderr)


# --- A terminal: colours, and a line that counts the seconds ---

_TONES = {"ok": 32, "good": 32, "warning": 33, "error": 31, "bad": 31, "breakglass": 31, "breakglass: warning": 33}
_LEVEL = re.compile("^(?:ok|warning|error|breakglass: warning|breakglass)(?=:)", re.MULTILINE)
_ERASE = "\r\x1b[K"
_screen = threading.Lock()  # held by what prints, so that no line is printed into the one that counts
_counting: list[str] = []  # the text of the line that counts, while it is shown


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


def _print(text: str, stream: TextIO | None, tone: str = "") -> None:
    """Print text in colours, if a terminal shows it: all of it in its tone, or what begins a line of a finding."""
    if _is_terminal(stream) and not os.environ.get("NO_COLOR"):
        whole = re.compile(".+") if tone else _LEVEL
        text = whole.sub(lambda found: f"\x1b[{_TONES[tone or found[0]]}m{found[0]}\x1b[0m", text)
    with _screen:
        _erase()
        print(text, end="", file=stream, flush=True)


def _erase() -> None:
    if _counting:
        _counting.clear()
        print(_ERASE, end="", file=sys.stderr, flush=True)


class Progress:
    """While its block runs, a line on stderr says what is awaited and for how many seconds, if that is a terminal."""

    def __init__(self, what: str) -> None:
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)
        self.await_next(what)

    def await_next(self, what: str) -> None:
        """Count the seconds for something else from now on."""
        self._what, self._since = what, time.monotonic()

    def __enter__(self) -> Self:
        if self._what and _is_terminal(sys.stderr):
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._is_over.set()
        if self._thread.ident is not None:
            self._thread.join()
        with _screen:
            _erase()

    def _count(self) -> None:
        while not self._is_over.wait(1.0):
            line = f"{self._what}, {time.monotonic() - self._since:.0f} s"
            with _screen, contextlib.suppress(OSError):
                _counting[:] = [visible(line)[: shutil.get_terminal_size().columns - 1]]
                print(f"{_ERASE}{_counting[0]}", end="", file=sys.stderr, flush=True)


def suggestion(word: str, known: Iterable[str], otherwise: str) -> str:
    """Return a question about the words that resemble a wrong one, or `otherwise` if none does. It is only printed."""
    from difflib import get_close_matches  # imported here, because only a wrong word needs it

    found = get_close_matches(word, known, cutoff=0.7)
    return f"did you mean {' or '.join(found)}?" if found else otherwise


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


def add_version(parser: argparse.ArgumentParser) -> None:
    """Describe `version`."""
    parser.set_defaults(run=_version)


def _version(_: argparse.Namespace) -> int:
    say(f"breakglass {VERSION}")
    return DONE
