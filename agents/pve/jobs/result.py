"""The result of a verb, which the trailer, `result.json` and `history` share."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from ..words import CONTAINER, ELSEWHERE, MOVED_CODES, OUTCOMES, PLACE_UNKNOWN, STOPPED

SENTENCE_CHARS = 200
WHY_CHARS = 110


@dataclass(frozen=True)
class Verdict:
    """One sentence for a person, the advised verb (or empty), and the lines that prove the sentence.

    The sentence has SENTENCE_CHARS at most. Text from Proxmox and QEMU belongs in the lines. `why` is the decisive half
    of it in WHY_CHARS for a phone, and empty if the sentence is short or is the cause of a failure. `fix`: see
    cures.py.
    """

    code: str
    sentence: str
    advice: str = ""
    evidence: tuple[str, ...] = ()
    why: str = ""
    fix: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "sentence", _shorten(self.sentence, SENTENCE_CHARS))
        object.__setattr__(self, "why", _shorten(self.why, WHY_CHARS))


def _shorten(sentence: str, most: int) -> str:
    """Return the sentence, cut between two words where it is too long to be read at one glance."""
    if len(sentence) <= most:
        return sentence
    words = sentence[: most - 1]
    return f"{words.rpartition(' ')[0] or words}…"


@dataclass(frozen=True)
class Result:
    """How a verb ended.

    `state`: see vmstate.vm_state; `elsewhere` if the verdict names the node that has the VM. `last`: the newest job
    that got past its preconditions, None if it was not looked up. `anyway`: the code with which a person can override
    this refusal. `seconds`: how long the verb took.
    """

    exit_code: int
    state: str = "unknown"
    last: str | None = None
    stage: str = ""
    verdict: Verdict | None = None
    holder: dict[str, object] | None = None
    anyway: str | None = None
    screen: bool = False
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    extra: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.state == STOPPED and self.verdict is not None and self.verdict.code in MOVED_CODES:
            object.__setattr__(self, "state", ELSEWHERE)
        if self.state == STOPPED and self.verdict is not None and self.verdict.code in (CONTAINER, PLACE_UNKNOWN):
            object.__setattr__(self, "state", "unknown")  # a missing QEMU here says nothing about the VM's state

    @property
    def outcome(self) -> str:
        """Return the word for the exit code."""
        return OUTCOMES[self.exit_code]

    def as_json(self) -> dict[str, object]:
        """Return the trailer's object; `extra` (the answers of history and ping) is merged into it."""
        fields = asdict(self)
        extra = fields.pop("extra")
        return {"outcome": self.outcome, **fields, **extra}


class Ended(Exception):
    """Raised to end a verb early, with the contents of its result."""

    def __init__(
        self, exit_code: int, verdict: Verdict, holder: dict[str, object] | None = None, anyway: str | None = None
    ) -> None:
        super().__init__(verdict.sentence)
        self.exit_code = exit_code
        self.verdict = verdict
        self.holder = holder
        self.anyway = anyway
