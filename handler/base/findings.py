"""What is wrong, or well: the one shape in which every part says it. Pure."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """What was found: how bad it is, where, a sentence, and the fix.

    `place` is the part that was looked at, such as `host pve1`, or the setting, such as `hosts.pve1.key_file`; then the
    sentence goes on from it. `code` is stable, for programs and tests, such as `key-not-accepted`. The part that finds
    it gives the code, so that a wording can change without it.
    """

    level: str
    place: str
    code: str
    sentence: str
    fix: str = ""

    def __str__(self) -> str:
        return _on_one_line(f"{self.level}: {self.place}: {self.sentence}" + (f" / {self.fix}" if self.fix else ""))

    @property
    def text(self) -> str:
        """The sentence and the fix, for an answer that has texts."""
        return _on_one_line(f"{self.sentence}; {self.fix}")


def _on_one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)  # a name can have a line's end in it


def as_json(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return findings as JSON objects, for `--json` and the log."""
    return [asdict(each) for each in findings]


def ok(place: str, code: str, sentence: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(OK, place, code, sentence)


def warning(place: str, code: str, sentence: str, fix: str) -> Finding:
    """Return a finding that leaves a rescue possible."""
    return Finding(WARNING, place, code, sentence, fix)


def error(place: str, code: str, sentence: str, fix: str) -> Finding:
    """Return a finding that stops a rescue, or a part of it that the configuration asks for."""
    return Finding(ERROR, place, code, sentence, fix)


class ConfigError(Exception):
    """Raised if the configuration, or a file that it names, can't be used; has everything that is wrong with it."""

    def __init__(self, problems: list[Finding]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        lines = ((f"{each.place}: {each.sentence}", f"    {each.fix}") for each in self.problems)
        return "\n".join(_on_one_line(line) for pair in lines for line in pair)
