"""Functions that build the early end of a verb, to be raised: a refusal, or a failure."""

from ..jobs.job import Job
from ..jobs.result import Ended, Verdict
from ..words import FAILED, REFUSED


def refusal(code: str, sentence: str, advice: str = "", *evidence: str) -> Ended:
    """Return the end of a verb that changed nothing."""
    return Ended(REFUSED, Verdict(code, sentence, advice, evidence))


def failure(code: str, sentence: str, advice: str = "", *evidence: str, exit_code: int = FAILED) -> Ended:
    """Return the end of a verb that may have changed something."""
    return Ended(exit_code, Verdict(code, sentence, advice, evidence))


def ended_from_error(job: Job, error: Exception) -> Ended:
    """Return a verb's own end, or the failure that a defect or a host without memory causes."""
    if isinstance(error, Ended):
        return error
    sentence = f"the host agent failed in stage {job.stage}: {type(error).__name__}"
    return failure("agent-failed", sentence, "status", str(error))
