"""What a host found about a VM, as far as a job or an answer says it. Pure."""

from collections.abc import Mapping
from typing import NamedTuple

from .text import plain_line

_CODE_CHARS = 64


class Verdict(NamedTuple):
    """A verdict with each text on one line; a text that the host did not send is empty."""

    code: str = ""
    sentence: str = ""
    advice: str = ""
    evidence: tuple[str, ...] = ()


def read_verdict(said: Mapping[str, object]) -> Verdict:
    """Return the verdict of a job or an answer. A host that is broken may say anything."""
    verdict = said.get("verdict")
    if not isinstance(verdict, Mapping):
        return Verdict()
    code, sentence, advice = (plain_line(str(verdict.get(name) or "")) for name in ("code", "sentence", "advice"))
    return Verdict(code[:_CODE_CHARS], sentence, advice, tuple(read_texts(verdict.get("evidence"))))


def read_texts(value: object) -> list[str]:
    """Return the texts of a list, each on one line; none if it is no list."""
    return [plain_line(str(item)) for item in value] if isinstance(value, list) else []
