"""The last step before a verb changes anything, and the early ends of a verb."""

from ..forensics.capture import ensure_evidence
from ..host.vmstate import Facts
from ..jobs.chain import chain_begin
from ..jobs.job import Job
from ..jobs.result import Ended, Verdict
from ..words import FAILED, REFUSED, STORAGE_HUNG

# --- Build the exceptions that end a verb early: a refusal, or a failure ---


def refusal(code: str, sentence: str, advice: str = "", *evidence: str, anyway: str | None = None) -> Ended:
    """Return the end of a verb that changed nothing; a person can override it with the code `anyway`."""
    return Ended(REFUSED, Verdict(code, sentence, advice, evidence), anyway=anyway)


def failure(code: str, sentence: str, advice: str = "", *evidence: str, exit_code: int = FAILED) -> Ended:
    """Return the end of a verb that may have changed something."""
    return Ended(exit_code, Verdict(code, sentence, advice, evidence))


def ended_from_error(job: Job, error: Exception) -> Ended:
    """Return the end that a verb raised, or a failure if a defect or a host without memory caused the error."""
    if isinstance(error, Ended):
        return error
    sentence = f"the host agent failed in stage {job.stage}: {type(error).__name__}"
    return failure("agent-failed", sentence, "status", str(error))


# --- The last step before a verb changes anything: the evidence, the refusals that follow from it, and the record in
# `last` ---

_MEND = (
    "by hand: repair the storage (pvesm status, dmesg, the network to a NAS); then QEMU continues by itself",
    "once the storage answers, collect evidence again; without that, the host refuses the verb for up to 60 s",
)


def begin_change(job: Job, facts: Facts) -> None:
    """Take the evidence, refuse if it forbids the verb, and record the job as `last` and in the chain."""
    job.enter("forensics")
    try:
        _refuse_hung_storage(job, ensure_evidence(job, facts))
    except Ended:
        raise
    except Exception as error:  # evidence comes first, but a defect there must not stop a rescue
        job.warnings.append(f"the evidence could not be taken: {type(error).__name__}: {error}")
    try:
        job.store.set_last(job.record.id)
    except OSError:
        job.warnings.append("the host could not record this job as the last one")
    chain_begin(job)


def _refuse_hung_storage(job: Job, verdict: Verdict | None) -> None:
    """Refuse a reset or a cycle if the evidence shows that the VM could not be started after it.

    A person who has seen the refusal can override it. A reset, too, blocks in QEMU until the storage answers.
    """
    if verdict is None or verdict.code != STORAGE_HUNG or job.record.verb not in ("reset", "cycle"):
        return
    if job.anyway == STORAGE_HUNG:
        job.warnings.append(f"the storage of this VM does not answer; {job.record.by} asked for the verb anyway")
        return
    sentence = (
        "this VM's storage does not answer: QEMU could not end and no start could follow until the storage answers; "
        "repair the storage first"
    )
    raise refusal(STORAGE_HUNG, sentence, "", *verdict.evidence, *_MEND, anyway=STORAGE_HUNG)
