"""The exception that ends a command."""

import os

USAGE_CODE = 2


class CommandError(Exception):
    """Raised if a command can't do its work: what is wrong, what to do next, and the exit code."""

    def __init__(self, message: str, hint: str = "", code: int = USAGE_CODE) -> None:
        super().__init__(message)
        self.message, self.hint, self.code = message, hint, code


def reason(error: OSError) -> str:
    """Return the operating system's message, without the number and the path that `str(error)` adds."""
    return error.strerror or (os.strerror(error.errno) if error.errno else type(error).__name__)
