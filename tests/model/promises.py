"""What the contract promises, as questions about one state of `world.py`. Pure."""

from .world import HOLDING, IDS, KNOWS_OFF, UNCHANGED, At, Gap, Phase, Power, Promise, State, Told


def broken(state: State, gaps: int, is_over: bool) -> str:
    """Return the promise that a state breaks, or an empty text. In the `gaps` an id may act twice, or once refused.

    `is_over`: nothing continues by itself.
    """
    is_excused = bool(state.gaps & gaps)
    if max(state.acts) > 1 and not state.gaps & gaps & ~Gap.FORGOTTEN:
        return Promise.ONCE
    for sending, job_id in zip(state.sendings, IDS, strict=True):
        told = sending.told
        if told == Told.DENIED or (told == Told.UNREACHED and sending.stray):
            return Promise.NOTHING_SENT
        if told in (Phase.REFUSED, Phase.BUSY, Phase.ELSEWHERE) and state.acts[job_id] and not is_excused:
            return Promise.NOTHING_CHANGED
    if state.wrong:
        return state.wrong
    for node in state.nodes:
        first, second = node.jobs
        if first.phase in HOLDING and second.phase in HOLDING:
            return Promise.ALONE
        if any(job.phase in UNCHANGED and job.acted for job in node.jobs):
            return Promise.NOTHING_CHANGED
    if state.power == Power.OFF and not is_said(state) and not state.gaps & Gap.NO_ARCHIVE:
        return Promise.SAID
    return Promise.ENDED if is_over and not has_ended(state) else ""


def is_said(state: State) -> bool:
    """Tell whether the answer to an id says that the VM may be off: the job's, or the archive's after a boot."""
    if any(node.jobs[1].phase == Phase.DONE for node in state.nodes):  # a stop says so
        return True
    jobs = [job for node in state.nodes for job in node.jobs]
    return any(job.phase in KNOWS_OFF or (job.archived and not job.acted and job.phase != Phase.DONE) for job in jobs)


def has_ended(state: State) -> bool:
    """Tell whether every sending has its answer, and every job at a node that is up its end."""
    if any(sending.at not in (At.UNSENT, At.ANSWERED) for sending in state.sendings):
        return False
    return not any(Phase.CLAIMED <= job.phase < Phase.DONE for node in state.nodes if node.up for job in node.jobs)
