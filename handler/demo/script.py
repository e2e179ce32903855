"""How a stand-in is started: an interpreter that knows the standard library and these files, and starts fast."""

import sys
from pathlib import Path

_HOME = str(Path(__file__).parents[2])


def script(name: str) -> list[str]:
    """Return the command line of `handler/demo/<name>.py`; its arguments follow."""
    begin = f"import sys; sys.path.insert(0, {_HOME!r}); from handler.demo.{name} import main; sys.exit(main())"
    return [sys.executable, "-IS", "-c", begin]
