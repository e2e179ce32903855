"""The problems of a configuration, each with its place and an instruction. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One fault in the configuration: where, what, and an instruction."""

    path: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}\n    {self.hint}"


def list_problems(problems: Iterable[Problem]) -> list[dict[str, str]]:
    """Return problems as JSON objects, for the log."""
    return [{"path": each.path, "message": each.message, "hint": each.hint} for each in problems]


class ConfigError(Exception):
    """Raised if the configuration can't be used; has all its problems."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)
