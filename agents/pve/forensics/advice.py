"""The two kinds of verdict: one that advises a verb, and one that advises none. Pure."""

from ..jobs.result import Verdict
from .evidence import Evidence
from .obstacles import obstacle_to
from .proof import pve_lines


def advise_verb(evidence: Evidence, code: str, what: str, do: str, verb: str, *proof: str) -> Verdict:
    """Return a verdict that advises `verb`, or names the obstacle that is certain to refuse it."""
    lines = (*proof, *pve_lines(evidence))
    if obstacle := obstacle_to(verb, evidence):
        return Verdict(code, f"{what}; a {verb} would be refused because {obstacle}", "", lines)
    return Verdict(code, f"{what}: {do}", verb, lines)


def advise_nothing(evidence: Evidence, code: str, sentence: str, *proof: str) -> Verdict:
    """Return a verdict that advises no verb."""
    return Verdict(code, sentence, "", (*proof, *pve_lines(evidence)))
