"""How a stand-in is started: an interpreter that knows the standard library and these files, and starts fast.

A capture starts ten of them at once, so what only some of their words need is imported there: pathlib, dataclasses and
subprocess would be half of what such a start takes.
"""

import os
import sys

_HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def script(name: str) -> list[str]:
    """Return the command line of `handler/demo/<name>.py`; its arguments follow."""
    begin = f"import sys; sys.path.insert(0, {_HOME!r}); from handler.demo.{name} import main; sys.exit(main())"
    return [sys.executable, "-IS", "-c", begin]
