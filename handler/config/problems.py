"""What is wrong with a configuration: every fault at once, each with its place and an instruction. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One fault in the configuration: where, what, and an instruction."""

    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" + (f"\n    {self.hint}" if self.hint else "")


def list_problems(problems: Iterable[Problem]) -> list[dict[str, str]]:
    """Return problems as JSON objects, for the log."""
    return [{"path": each.path, "message": each.message, "hint": each.hint} for each in problems]


class ConfigError(Exception):
    """The configuration can't be used; carries every problem at once."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)
