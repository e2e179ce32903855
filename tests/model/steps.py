"""What can happen next in a state of `world.py`: the programs continue, the world changes, something fails. Pure."""

from collections.abc import Iterator

from .handlers import cut, deliver, handle, shown_place
from .world import (
    CLEAR,
    ENDINGS,
    FIRST,
    HOLDING,
    NAMES,
    UNCHANGED,
    At,
    Gap,
    Job,
    Limits,
    Line,
    Node,
    Phase,
    Power,
    Promise,
    Rules,
    Sending,
    State,
    Step,
    Told,
    end,
    has_process,
    is_used,
    name,
    put,
    put_handler,
    put_job,
    put_sending,
)


def steps(state: State, rules: Rules, limits: Limits) -> Iterator[Step]:
    """Yield each step that can come next, with a sentence for it."""
    yield from progress(state, rules)
    yield from changes(state, rules, limits)


def changes(state: State, rules: Rules, limits: Limits) -> Iterator[Step]:
    """Yield what people do, and what happens to the world."""
    yield from wishes(state, rules)
    if state.faults < limits.faults:
        yield from faults(state, rules)
    if state.moves < limits.moves:
        yield from moves(state)


def progress(state: State, rules: Rules) -> Iterator[Step]:
    """Yield what the programs and a working network do by themselves. Where nothing is left, all has ended."""
    for number, sending in enumerate(state.sendings):
        if At.ARRIVED <= sending.at < At.ANSWERED:
            yield from handle(state, rules, number, sending)
        if sending.stray and state.nodes[sending.stray - 1].up:
            reached = deliver(state, rules, number, sending.stray - 1)
            sent = put_sending(reached, number, reached.sendings[number]._replace(stray=0))
            yield f"the line of {name(number)} that was left behind reaches node {sending.stray - 1}", sent
    for place, node in enumerate(state.nodes):
        if node.up:
            for job_id, job in enumerate(node.jobs):
                if Phase.CLAIMED <= job.phase < Phase.DONE:
                    yield from run_job(state, rules, place, job_id, job)
    for number, handler in enumerate(state.handlers):
        for place, link in enumerate(handler.links):
            if link == Line.DEAD:
                yield f"handler {number} gives the connection to node {place} up", cut(state, number, place)
            elif link == Line.DOWN and state.nodes[place].up:
                links = put(handler.links, place, Line.UP)
                yield (
                    f"handler {number} connects to node {place}",
                    put_handler(state, number, handler._replace(links=links)),
                )


# ---- the world: clients, people, moves


def wishes(state: State, rules: Rules) -> Iterator[Step]:
    """Yield what people do: each sending once, the second of an id only after the first, and through either handler.

    A `status` is sent at any time, too. It shows a handler where the VM is. And what was broken is repaired.
    """
    for number, sending in enumerate(state.sendings):
        if sending.at != At.UNSENT or (not FIRST[number] and state.sendings[number - 1].at == At.UNSENT):
            continue
        for to in range(1 + (not FIRST[number])):  # the handlers are alike until then
            new = Sending(at=At.ARRIVED, handler=to)
            yield f"a client sends {name(number)} to handler {to}", put_sending(state, number, new)
    for place, node in enumerate(state.nodes):
        if not node.up:
            yield f"node {place} boots", _boot(state, place, keeps=True)
        elif node.sees != CLEAR:
            nodes = put(state.nodes, place, node._replace(sees=CLEAR))
            yield f"node {place} sees the cluster again", state._replace(nodes=nodes)
    for number, handler in enumerate(state.handlers):
        place = 1 - handler.node
        if handler.links[place] == Line.UP and is_used(state, number) and shown_place(state, place, rules) == place:
            found = put_handler(state, number, handler._replace(node=place))
            yield f"handler {number} finds the VM on node {place} by a status", found


def moves(state: State) -> Iterator[Step]:
    """Yield the moves of the VM: a migration; HA after the loss of its node; a person, from one without the cluster.

    The last takes minutes. The job that holds the VM there ends before.
    """
    here, other = state.nodes[state.place], 1 - state.place
    if not state.nodes[other].up or state.nodes[other].sees != CLEAR:
        return
    moved = state._replace(place=other, moves=state.moves + 1)
    if not here.up:
        yield f"HA starts the VM on node {other}", moved._replace(power=Power.ON)
    elif here.sees == CLEAR:
        yield f"the VM moves to node {other}", moved
        if state.twice and state.power == Power.ON and not state.copy:
            off = moved._replace(power=Power.OFF_BY_OTHERS, copy=state.place + 1)
            yield f"a person moves the configuration to node {other}, and node {state.place} runs on", off
    elif state.twice and state.power == Power.ON and not state.copy:
        yield f"HA starts the VM on node {other}, and node {state.place} runs on", moved._replace(copy=state.place + 1)
    elif state.power != Power.ON and not any(job.phase in HOLDING for job in here.jobs):
        yield f"a person starts the VM on node {other}", moved._replace(power=Power.ON)


def faults(state: State, rules: Rules) -> Iterator[Step]:
    """Yield what can go wrong: connections, handlers, nodes, processes, and a person who stops or starts the VM."""
    after = state._replace(faults=state.faults + 1)
    for number, handler in enumerate(state.handlers):
        for place, link in enumerate(handler.links):
            if link == Line.UP and is_used(state, number):
                yield f"the connection from handler {number} to node {place} is dead", _kill_link(after, number, place)
        if any(s.handler == number and At.ARRIVED <= s.at < At.ANSWERED for s in state.sendings):
            yield f"handler {number} dies and starts again", _crash_handler(after, number)
    for place, node in enumerate(state.nodes):
        if node.up:
            yield f"node {place} goes down", _crash_node(after, place)
            if node.sees == CLEAR:
                nodes = put(state.nodes, place, node._replace(sees=state.place))
                yield f"node {place} loses the cluster", after._replace(nodes=nodes)
            for job_id, job in enumerate(node.jobs):
                if Phase.CLAIMED <= job.phase < Phase.DONE:
                    yield f"job {NAMES[job_id]} at node {place} is killed", kill_job(after, rules, place, job_id, job)
        else:
            yield f"node {place} boots, and its archive is lost", _boot(after, place, keeps=False)
            yield f"node {place} boots without the cluster", _boot(after, place, keeps=True, sees=node.sees)
    if state.nodes[state.place].up:
        power = Power.OFF_BY_OTHERS if state.power == Power.ON else Power.ON
        yield f"a person {'stops' if state.power == Power.ON else 'starts'} the VM", after._replace(power=power)


def kill_job(state: State, rules: Rules, place: int, job_id: int, job: Job) -> State:
    """A job's process ends: a cycle that has stopped the VM has a standby process, which can be killed as well."""
    phase = Phase.KILLED if job.phase < Phase.STOPPED or job_id == 1 else Phase.ORPHANED
    if job.phase > Phase.STOPPED:
        phase = Phase.STRANDED if rules.says_stranded else Phase.DONE
    return put_job(state, place, job_id, job._replace(phase=phase))


def _kill_link(state: State, number: int, place: int) -> State:
    handler = state.handlers[number]
    return put_handler(state, number, handler._replace(links=put(handler.links, place, Line.DEAD)))


def _crash_handler(state: State, number: int) -> State:
    """A handler ends and starts again: its clients hear nothing more, and it remembers no id."""
    state = put_handler(state, number, state.handlers[number]._replace(node=0, sent=(0, 0)))
    for each, s in enumerate(state.sendings):
        if s.handler == number and At.ARRIVED <= s.at < At.ANSWERED:
            state = end(state, each, Told.GONE, stray=s.node + 1 if s.at == At.SENT else s.stray)
    return state


def _crash_node(state: State, place: int) -> State:
    """A node goes down: its connections are dead, its jobs end where they are, and the VM with it if it is there."""
    for number in (0, 1):
        if state.handlers[number].links[place] == Line.UP and is_used(state, number):
            state = _kill_link(state, number, place)
    node = state.nodes[place]
    node = node._replace(up=False, sees=state.place if node.sees == CLEAR else node.sees)
    power = Power.OFF_BY_OTHERS if state.place == place else state.power
    copy = 0 if state.copy == place + 1 else state.copy
    return state._replace(nodes=put(state.nodes, place, node), power=power, copy=copy)


def _boot(state: State, place: int, keeps: bool, sees: int = CLEAR) -> State:
    """A node is up again: /run is empty. Its archive knows the jobs that were recorded, or is lost too.

    A refusal is copied to the archive after its end, so the node may have gone down before that.
    """
    before = state.nodes[place].jobs
    jobs = tuple(Job(archived=job.archived and keeps) for job in before)
    gaps = state.gaps | (0 if keeps else Gap.NO_ARCHIVE)
    if any(job.phase in UNCHANGED for job in before):
        gaps |= Gap.FORGOTTEN
    return state._replace(nodes=put(state.nodes, place, Node(sees=sees, jobs=jobs)), gaps=gaps)


# ---- what a job does at its node, from its claim to its end


def run_job(state: State, rules: Rules, place: int, job_id: int, job: Job) -> Iterator[Step]:
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
