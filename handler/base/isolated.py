"""Builds command lines that run one module of this package in an isolated interpreter.

Such a process sees no site-packages and no environment (`-IS`), so only the standard library and this package can be
imported, and the interpreter starts in half the time. The package is registered by hand, because in a checkout its
folder and the package have different names.
"""

import os
import sys

_HERE = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_PACKAGE = __name__.partition(".")[0]
_PATH = [_HERE, *sys.modules[_PACKAGE].__path__[1:]]  # in a checkout, `agents` is beside this folder


def isolated_command(module: str, *arguments: str) -> list[str]:
    """Return the command line that calls `main()` of a module such as "chat.start", with these arguments."""
    begin = (
        f"import sys; package = type(sys)({_PACKAGE!r}); package.__path__ = {_PATH!r}; "
        f"sys.modules[{_PACKAGE!r}] = package; "
        f"from {_PACKAGE}.{module} import main; sys.exit(main())"
    )
    return [sys.executable, "-IS", "-c", begin, *arguments]
