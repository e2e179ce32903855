"""What `breakglass doctor` found: one finding a line. Pure."""

from dataclasses import asdict, dataclass

OK, WARNING, ERROR = "ok", "warning", "error"


@dataclass(frozen=True)
class Finding:
    """One line of `doctor`: how bad it is, a sentence, and the fix.

    `place` is the part that was looked at, such as `configuration`, `host pve1`, `VM devvm`, `handler`, `chat`. `code`
    is stable, for programs and tests, such as `key-not-accepted`.
    """

    level: str
    place: str
    code: str
    sentence: str
    fix: str = ""

    def __str__(self) -> str:
        line = f"{self.level}: {self.place}: {self.sentence}" + (f" / {self.fix}" if self.fix else "")
        return "".join(char if char.isprintable() else " " for char in line)  # a name can have a line's end in it

    def as_json(self) -> dict[str, str]:
        """Return the finding as an object of `doctor --json`."""
        return asdict(self)


def ok(place: str, code: str, sentence: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(OK, place, code, sentence)


def warning(place: str, code: str, sentence: str, fix: str) -> Finding:
    """Return a finding that leaves a rescue possible."""
    return Finding(WARNING, place, code, sentence, fix)


def error(place: str, code: str, sentence: str, fix: str) -> Finding:
    """Return a finding that stops a rescue, or a part of it that the configuration asks for."""
    return Finding(ERROR, place, code, sentence, fix)
