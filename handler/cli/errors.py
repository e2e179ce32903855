"""The exception that ends a command."""

from ..reasons import reason

__all__ = ["USAGE_CODE", "CommandError", "reason"]
USAGE_CODE = 2


class CommandError(Exception):
    """Raised if a command can't do its work: what is wrong, what to do next, and the exit code."""

    def __init__(self, message: str, hint: str = "", code: int = USAGE_CODE) -> None:
        super().__init__(message)
        self.message, self.hint, self.code = message, hint, code
