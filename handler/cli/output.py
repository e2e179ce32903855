"""What the commands print, and the codes they end with. The only place that prints."""

import os
import re
import sys
from typing import TextIO

DONE, FAILED, USAGE, UNREACHED, UNKNOWN, INTERRUPTED = 0, 1, 2, 3, 4, 130
EXIT_CODES = """\
exit codes:
  0    done
  1    failed, refused, busy or rejected, or the handler answered with an error
  2    wrong usage, setting or configuration; nothing was sent
  3    the handler or the host was not reached; nothing was sent
  4    the outcome is not known, or the verb is still running; the same id can be sent again
  130  interrupted with Ctrl-C
"""

# What a terminal would obey or a reader be fooled by: C0 and C1 controls but newline and tab, and bidi overrides.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Return `text` with control and bidi characters written out."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def say(text: str) -> None:
    """Print a line."""
    show(f"{text}\n")


def show(text: str, stream: TextIO | None = None) -> None:
    """Print text as it comes, without a newline of its own."""
    print(visible(text), end="", file=stream or sys.stdout, flush=True)


def complain(message: str, hint: str = "") -> None:
    """Print an error, or a warning, and its instruction on stderr."""
    remark(f"breakglass: {message}" if message else "", hint)


def remark(message: str, hint: str = "") -> None:
    """Print on stderr what is no error, and what belongs to it."""
    lines = [message] * bool(message) + [f"    {hint}"] * bool(hint)
    if lines:
        print(visible("\n".join(lines)), file=sys.stderr)


def drop_output() -> None:
    """Send what is still buffered nowhere: the interpreter would complain at its end that the reader is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def version(number: str) -> int:
    """Print the version."""
    say(f"breakglass {number}")
    return DONE
