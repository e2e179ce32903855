"""The two kinds of verdict: one that advises a verb, and one that advises none. Pure."""

from ..jobs.result import Verdict
from .evidence import Evidence
from .obstacles import obstacle_to
from .proof import pve_lines


def advise_verb(seen: Evidence, code: str, what: str, do: str, verb: str, *evidence: str) -> Verdict:
    """Return a verdict that advises `verb`, or names the obstacle that is certain to refuse it."""
    lines = (*evidence, *pve_lines(seen))
    if obstacle := obstacle_to(verb, seen):
        return Verdict(code, f"{what}; a {verb} would be refused because {obstacle}", "", lines)
    return Verdict(code, f"{what}: {do}", verb, lines)


def advise_nothing(seen: Evidence, code: str, sentence: str, *evidence: str) -> Verdict:
    """Return a verdict that advises no verb."""
    return Verdict(code, sentence, "", (*evidence, *pve_lines(seen)))
