"""What a job does at its node, from its claim to its end. Pure."""

from collections.abc import Iterator

from .world import (
    CLEAR,
    ENDINGS,
    HOLDING,
    NAMES,
    Job,
    Phase,
    Power,
    Promise,
    Rules,
    State,
    Step,
    has_process,
    put,
    put_job,
)


def run(state: State, rules: Rules, place: int, job_id: int, job: Job) -> Iterator[Step]:
    """Yield what a job that has not ended can do next."""
    node, name = state.nodes[place], f"job {NAMES[job_id]} at node {place}"
    is_free = not any(other.phase in HOLDING for number, other in enumerate(node.jobs) if number != job_id)

    def to(phase: int, **changes: bool) -> State:
        return put_job(state, place, job_id, job._replace(phase=phase, **changes))

    if job.phase == Phase.CLAIMED and not rules.looks_under_lock:
        refusal = _refusal(state, rules, place, job_id)
        yield f"{name} looks", to(refusal or Phase.CHECKED)
    elif job.phase in (Phase.CLAIMED, Phase.CHECKED):
        if is_free or not rules.takes_lock:
            yield f"{name} takes the lock", to(Phase.LOCKED)
        elif job.archived and rules.asks_archive:
            yield f"{name} is refused: {ENDINGS[Phase.REUSED]}", to(Phase.REUSED)
        else:
            yield f"{name} is busy", to(Phase.BUSY)
    elif job.phase == Phase.LOCKED:
        looks = rules.looks_under_lock and rules.looks_before_acting
        if looks and (refusal := _refusal(state, rules, place, job_id)):
            yield f"{name} is refused: {ENDINGS[refusal]}", to(refusal)
        else:
            recorded = job._replace(phase=Phase.RECORDED, archived=job.archived or rules.archives_before_acting)
            yield f"{name} is recorded", put_job(state, place, job_id, recorded, last=job_id + 1)
    elif job.phase == Phase.RECORDED:
        looks = rules.looks_again if node.sees == CLEAR else rules.says_what_it_sees
        if job_id == 1 and not looks and not has_process(state, place):
            yield f"{name} finds no process, and says that the VM is stopped", _end_of_stop(state, place, job)
        elif job_id == 1 and state.copy == place + 1:
            acts = put(state.acts, 1, state.acts[1] + 1)
            yield f"{name} ends the stale copy", to(Phase.DONE, acted=True, archived=True)._replace(copy=0, acts=acts)
        elif state.place != place or _is_blind(state, place, job_id):
            yield f"{name} fails: the VM has gone", to(Phase.FAILED)
        else:
            acts = put(state.acts, job_id, state.acts[job_id] + 1)
            power = Power.OFF if state.power == Power.ON else state.power
            wrong = Promise.LAST if job_id == 1 and node.jobs[0].acted else state.wrong
            yield f"{name} stops the VM", to(Phase.STOPPED, acted=True)._replace(power=power, acts=acts, wrong=wrong)
    elif job.phase in (Phase.STOPPED, Phase.RESUMED):
        if not rules.looks_before_acting and job_id == 1 and node.jobs[0].acted:
            yield f"{name} is refused: {ENDINGS[Phase.REFUSED]}", to(Phase.REFUSED)
        elif job_id == 1:
            is_over = state.place == place and state.power != Power.ON
            words = "ends: stopped" if is_over else "fails: it was started meanwhile"
            yield f"{name} {words}", _end_of_stop(state, place, job) if is_over else to(Phase.STRANDED)
        elif state.place != place or node.sees != CLEAR:
            yield f"{name} can't start the VM", to(Phase.STRANDED)
        else:
            yield f"{name} starts the VM", to(Phase.DONE, archived=True)._replace(power=Power.ON)
    elif job.phase == Phase.ORPHANED:
        if rules.standby_yields and (not is_free or node.last != job_id + 1):
            yield f"{name} yields", to(Phase.KILLED)
        else:
            yield f"{name} continues", to(Phase.RESUMED)


def _end_of_stop(state: State, place: int, job: Job) -> State:
    """A `stop` is done, and says that the VM is stopped."""
    ended = put_job(state, place, 1, job._replace(phase=Phase.DONE, archived=True))
    return ended._replace(wrong=Promise.TRUE) if state.power == Power.ON else ended


def _is_blind(state: State, place: int, job_id: int) -> bool:
    """Tell whether a node sees too little to act: a start needs the cluster, and a stop at least the process."""
    return state.nodes[place].sees != CLEAR and (job_id == 0 or not has_process(state, place))


def _refusal(state: State, rules: Rules, place: int, job_id: int) -> int:
    """Return why a job may not act, or 0.

    Its id acted before the boot, another job has acted, the node does not see where the VM is, or sees it elsewhere.
    """
    node = state.nodes[place]
    if node.jobs[job_id].archived and rules.asks_archive:
        return Phase.REUSED
    if job_id == 1 and node.last not in (0, 2):
        return Phase.REFUSED
    if job_id == 1 and state.copy == place + 1:
        return 0
    if _is_blind(state, place, job_id):
        return 0 if job_id == 1 and not rules.says_what_it_sees else Phase.REFUSED
    return Phase.ELSEWHERE if state.place != place else 0
