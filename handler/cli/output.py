"""What the commands print, and the codes they end with. The only place that prints.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 unreached, 4 unknown.
"""

import re
import sys
from typing import TextIO

DONE, FAILED, USAGE, UNREACHED, UNKNOWN = 0, 1, 2, 3, 4

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
    """Print a message and its hint on stderr."""
    lines = [f"breakglass: {message}"] * bool(message) + [f"    {hint}"] * bool(hint)
    if lines:
        print(visible("\n".join(lines)), file=sys.stderr)
