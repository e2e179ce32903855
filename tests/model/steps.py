"""What can happen next in a state of `world.py`: the programs go on, the world changes, something fails. Pure."""

from collections.abc import Iterator

from .world import (
    ANSWERED,
    ARRIVED,
    ATTACHED,
    BUSY,
    CHECKED,
    CLAIMED,
    DENIED,
    DONE,
    ELSEWHERE,
    ENDINGS,
    FAILED,
    FIRST,
    FORGOTTEN,
    GONE,
    HOLDING,
    IDS,
    KILLED,
    LOCKED,
    LOST,
    MOVED_MEANWHILE,
    NO_AGAIN,
    NO_ARCHIVE,
    NONE,
    OFF,
    OFF_BY_OTHERS,
    ON,
    ORPHANED,
    RECORDED,
    REFUSED,
    RESUMED,
    REUSED,
    SENT,
    STOPPED,
    STRANDED,
    UNCHANGED,
    UNKNOWN,
    UNREACHED,
    UNSENT,
    Job,
    Limits,
    Node,
    Rules,
    Sending,
    State,
    put,
)

Step = tuple[str, State]
NAMES = "AB"


def steps(state: State, rules: Rules, limits: Limits) -> Iterator[Step]:
    """Yield each step that can come next, with a sentence for it."""
    yield from progress(state, rules)
    yield from wishes(state, rules)
    if state.faults < limits.faults:
        yield from faults(state, rules)
    if state.moves < limits.moves:
        yield from moves(state)


def progress(state: State, rules: Rules) -> Iterator[Step]:
    """Yield what the programs and a working network do by themselves. Where nothing is left, all has ended."""
    for number, sending in enumerate(state.sendings):
        if ARRIVED <= sending.at < ANSWERED:
            yield from _handler(state, rules, number, sending)
        if sending.stray and state.nodes[sending.stray - 1].up:
            reached = _deliver(state, rules, number, sending.stray - 1)
            sent = _set(reached, number, reached.sendings[number]._replace(stray=0))
            yield f"the line of {_name(number)} that was left behind reaches node {sending.stray - 1}", sent
    for place, node in enumerate(state.nodes):
        if node.up:
            for job_id, job in enumerate(node.jobs):
                if CLAIMED <= job.phase < DONE:
                    yield from _job(state, rules, place, job_id, job)
    for number, handler in enumerate(state.handlers):
        for place, is_up in enumerate(handler.links):
            if not is_up and state.nodes[place].up:
                links = put(handler.links, place, True)
                handlers = put(state.handlers, number, handler._replace(links=links))
                yield f"handler {number} connects to node {place}", state._replace(handlers=handlers)


def _name(number: int) -> str:
    return f"{NAMES[IDS[number]]}{'' if FIRST[number] else ' again'}"


def _set(state: State, number: int, sending: Sending) -> State:
    return state._replace(sendings=put(state.sendings, number, sending))


def _tell(state: State, number: int, told: int) -> State:
    return _set(state, number, state.sendings[number]._replace(at=ANSWERED, told=told))


# ---- a handler, with one sending


def _handler(state: State, rules: Rules, number: int, sending: Sending) -> Iterator[Step]:
    handler, name = state.handlers[sending.handler], _name(number)
    is_linked = handler.links[sending.node]
    if sending.at == ARRIVED:
        yield _ask(state, rules, number, sending) if rules.asks_others else _send(state, rules, number, sending)
    elif sending.at == SENT:
        if is_linked:
            reached = _deliver(state, rules, number, sending.node)
            yield f"node {sending.node} reads {name}", _set(reached, number, sending._replace(at=ATTACHED))
    elif sending.at == ATTACHED:
        if is_linked:
            yield from _follow(state, rules, number, sending)
    else:  # LOST
        if is_linked:
            again = _set(state, number, sending._replace(at=SENT))
            yield f"handler {sending.handler} sends {name} again", again
        if rules.gives_up or is_linked:
            told = UNREACHED if sending.stray and not rules.knows_what_left else UNKNOWN
            yield f"handler {sending.handler} gives {name} up", _tell(state, number, told)


def _send(state: State, rules: Rules, number: int, sending: Sending) -> Step:
    """The line is sent to the handler's node, or the answer is that none was."""
    handler, job_id, name = state.handlers[sending.handler], IDS[number], _name(number)
    if handler.links[sending.node]:
        sent = put(handler.sent, job_id, 1)
        handlers = put(state.handlers, sending.handler, handler._replace(sent=sent))
        changed = state._replace(handlers=handlers)
        to = f"handler {sending.handler} sends {name} to node {sending.node}"
        return to, _set(changed, number, sending._replace(at=SENT))
    told = UNREACHED
    if sending.followed:
        told = ELSEWHERE  # what the first node said
    elif handler.sent[job_id]:
        told = UNKNOWN if rules.remembers_sent else DENIED
    return f"handler {sending.handler} can't reach node {sending.node} for {name}", _tell(state, number, told)


def _ask(state: State, rules: Rules, number: int, sending: Sending) -> Step:
    """The other node says if it knows the id. If it can't be asked, a first sending goes on, a repeated one not."""
    other, job_id = 1 - sending.node, IDS[number]
    if state.handlers[sending.handler].links[other]:  # a connection to a node that is down has ended
        job = state.nodes[other].jobs[job_id]
        is_known = job.phase != NONE and not (rules.elsewhere_is_new and job.phase == ELSEWHERE)
        if is_known or (job.archived and rules.asks_archive):
            sending = sending._replace(node=other)
        return _send(state, rules, number, sending)
    if FIRST[number]:
        return _send(state, rules, number, sending)
    if rules.says_again and rules.waits_for_others:
        return f"node {other} can't be asked for {_name(number)}", _tell(state, number, UNKNOWN)
    gaps = state.gaps | (0 if rules.says_again else NO_AGAIN)
    return _send(state._replace(gaps=gaps), rules, number, sending)


def _deliver(state: State, rules: Rules, number: int, place: int) -> State:
    """A node reads a line: a known id attaches, an id of before its boot is refused, and a new one becomes a job."""
    node, job_id = state.nodes[place], IDS[number]
    job = node.jobs[job_id]
    if job.phase != NONE and (rules.claims_once or job.phase < DONE):
        return state
    return _put_job(state, place, job_id, job._replace(phase=CLAIMED))


def _follow(state: State, rules: Rules, number: int, sending: Sending) -> Iterator[Step]:
    """The job's end is the answer. After "other-node", the other node is tried, once."""
    job = state.nodes[sending.node].jobs[IDS[number]]
    name = _name(number)
    if job.phase == ELSEWHERE and rules.follows and not sending.followed:
        other = 1 - sending.node
        handler = state.handlers[sending.handler]
        handlers = put(state.handlers, sending.handler, handler._replace(node=other))
        moved = sending._replace(at=ARRIVED, node=other, followed=True)
        yield (
            f"handler {sending.handler} looks for {name} at node {other}",
            _set(state._replace(handlers=handlers), number, moved),
        )
    elif job.phase >= DONE:
        yield f"{name} is answered", _tell(state, number, job.phase)
    elif job.phase == NONE:  # the node has booted: its /run is empty
        yield f"{name} is not known any more: sent again", _set(state, number, sending._replace(at=SENT))


# ---- a job, at its node


def _put_job(state: State, place: int, job_id: int, job: Job, last: int | None = None) -> State:
    node = state.nodes[place]
    changed = Node(node.up, node.last if last is None else last, put(node.jobs, job_id, job))
    return state._replace(nodes=put(state.nodes, place, changed))


def _job(state: State, rules: Rules, place: int, job_id: int, job: Job) -> Iterator[Step]:
    node, name = state.nodes[place], f"job {NAMES[job_id]} at node {place}"
    is_free = not any(other.phase in HOLDING for number, other in enumerate(node.jobs) if number != job_id)

    def to(phase: int, **changes: bool) -> State:
        return _put_job(state, place, job_id, job._replace(phase=phase, **changes))

    if job.phase == CLAIMED and not rules.looks_under_lock:
        refusal = _refusal(state, rules, place, job_id)
        yield f"{name} looks", to(refusal or CHECKED)
    elif job.phase in (CLAIMED, CHECKED):
        if is_free or not rules.takes_lock:
            yield f"{name} takes the lock", to(LOCKED)
        elif job.archived and rules.asks_archive:
            yield f"{name} is refused: {ENDINGS[REUSED]}", to(REUSED)
        elif state.place != place and rules.finds_elsewhere_first:
            yield f"{name} is refused: {ENDINGS[ELSEWHERE]}", to(ELSEWHERE)
        else:
            yield f"{name} is busy", to(BUSY)
    elif job.phase == LOCKED:
        looks = rules.looks_under_lock and rules.looks_before_acting
        if looks and (refusal := _refusal(state, rules, place, job_id)):
            yield f"{name} is refused: {ENDINGS[refusal]}", to(refusal)
        else:
            recorded = job._replace(phase=RECORDED, archived=job.archived or rules.archives_before_acting)
            yield f"{name} is recorded", _put_job(state, place, job_id, recorded, last=job_id + 1)
    elif job.phase == RECORDED:
        if state.place != place:
            yield f"{name} fails: the VM has gone", to(FAILED)
        else:
            acts = put(state.acts, job_id, state.acts[job_id] + 1)
            power = OFF if state.power == ON else state.power
            ignored = state.ignored or (job_id == 1 and node.jobs[0].acted)
            yield f"{name} stops the VM", to(STOPPED, acted=True)._replace(power=power, acts=acts, ignored=ignored)
    elif job.phase in (STOPPED, RESUMED):
        if state.place != place:
            yield f"{name} can't start the VM: it has gone", to(STRANDED)
        elif not rules.looks_before_acting and job_id == 1 and node.jobs[0].acted:
            yield f"{name} is refused: {ENDINGS[REFUSED]}", to(REFUSED)
        else:
            yield f"{name} starts the VM", to(DONE, archived=True)._replace(power=ON)
    elif job.phase == ORPHANED:
        if rules.standby_yields and (not is_free or node.last != job_id + 1):
            yield f"{name} yields", to(KILLED)
        else:
            yield f"{name} goes on", to(RESUMED)


def _refusal(state: State, rules: Rules, place: int, job_id: int) -> int:
    """Return why a job may not act, or 0: its id acted before the boot, the VM is elsewhere, or another job acted."""
    node = state.nodes[place]
    if node.jobs[job_id].archived and rules.asks_archive:
        return REUSED
    if state.place != place:
        return ELSEWHERE
    return REFUSED if job_id == 1 and node.last not in (0, 2) else 0


# ---- the world: clients, people, moves


def wishes(state: State, rules: Rules) -> Iterator[Step]:
    """Yield what people do: each sending once, the second of an id only after the first, and through either handler.

    Where handlers follow the VM, they find it by any verb that looks; otherwise a person has to tell them.
    """
    for number, sending in enumerate(state.sendings):
        if sending.at != UNSENT or (not FIRST[number] and state.sendings[number - 1].at == UNSENT):
            continue
        for to, handler in enumerate(state.handlers[: 1 + (not FIRST[number])]):  # they are alike until then
            new = Sending(at=ARRIVED, handler=to, node=handler.node)
            yield f"a client sends {_name(number)} to handler {to}", _set(state, number, new)
    for place, node in enumerate(state.nodes):
        if not node.up:
            yield f"node {place} boots", _boot(state, place, keeps=True)
    how = "finds out by a status" if rules.follows else "is told by a person"
    for number, handler in enumerate(state.handlers):
        if handler.node != state.place:
            handlers = put(state.handlers, number, handler._replace(node=state.place))
            yield f"handler {number} {how} where the VM is", state._replace(handlers=handlers)


def moves(state: State) -> Iterator[Step]:
    """Yield the moves of the VM: a migration, or HA after the loss of its node."""
    other = 1 - state.place
    if not state.nodes[other].up:
        return
    is_under_way = any(s.at in (SENT, LOST) or s.stray for s in state.sendings) or any(
        CLAIMED <= job.phase < RECORDED for node in state.nodes for job in node.jobs
    )
    gaps = state.gaps | (MOVED_MEANWHILE if is_under_way else 0)
    moved = state._replace(place=other, moves=state.moves + 1, gaps=gaps)
    if state.nodes[state.place].up:
        yield f"the VM moves to node {other}", moved
    else:
        yield f"HA starts the VM on node {other}", moved._replace(power=ON)


def faults(state: State, rules: Rules) -> Iterator[Step]:
    """Yield what can go wrong: connections, handlers, nodes, processes, and a person who stops or starts the VM."""
    after = state._replace(faults=state.faults + 1)
    for number, handler in enumerate(state.handlers):
        for place, is_up in enumerate(handler.links):
            if is_up:
                yield f"the connection from handler {number} to node {place} breaks", _cut(after, number, place)
        if any(s.handler == number and ARRIVED <= s.at < ANSWERED for s in state.sendings):
            yield f"handler {number} dies and starts again", _crash_handler(after, number)
    for place, node in enumerate(state.nodes):
        if node.up:
            yield f"node {place} goes down", _crash_node(after, place)
            for job_id, job in enumerate(node.jobs):
                if CLAIMED <= job.phase < DONE:
                    phase = KILLED if job.phase < STOPPED else ORPHANED
                    if job.phase > STOPPED:  # the standby process too
                        phase = STRANDED if rules.says_stranded else DONE
                    killed = _put_job(after, place, job_id, job._replace(phase=phase))
                    yield f"job {NAMES[job_id]} at node {place} is killed", killed
        else:
            yield f"node {place} boots, and its archive is lost", _boot(after, place, keeps=False)
    if state.nodes[state.place].up:
        power = OFF_BY_OTHERS if state.power == ON else ON
        yield f"a person {'stops' if state.power == ON else 'starts'} the VM", after._replace(power=power)


def _cut(state: State, number: int, place: int) -> State:
    """A connection breaks: what was sent may have got there, may still, or never does."""
    handler = state.handlers[number]
    handlers = put(state.handlers, number, handler._replace(links=put(handler.links, place, False)))
    sendings = tuple(
        s
        if s.handler != number or s.node != place or s.at not in (SENT, ATTACHED)
        else s._replace(at=LOST, stray=place + 1 if s.at == SENT else s.stray)
        for s in state.sendings
    )
    return state._replace(handlers=handlers, sendings=sendings)


def _crash_handler(state: State, number: int) -> State:
    """A handler ends and starts again: its clients hear nothing more, and it remembers no id."""
    sendings = tuple(
        s
        if s.handler != number or not ARRIVED <= s.at < ANSWERED
        else s._replace(at=ANSWERED, told=GONE, stray=s.node + 1 if s.at == SENT else s.stray)
        for s in state.sendings
    )
    handlers = put(state.handlers, number, state.handlers[number]._replace(sent=(0, 0)))
    return state._replace(sendings=sendings, handlers=handlers)


def _crash_node(state: State, place: int) -> State:
    """A node goes down: its connections break, its jobs end where they are, and the VM with it if it is there."""
    for number in (0, 1):
        if state.handlers[number].links[place]:
            state = _cut(state, number, place)
    node = state.nodes[place]._replace(up=False)
    power = OFF_BY_OTHERS if state.place == place else state.power
    return state._replace(nodes=put(state.nodes, place, node), power=power)


def _boot(state: State, place: int, keeps: bool) -> State:
    """A node is up again: /run is empty. Its archive knows the jobs that were recorded, or is lost too.

    A refusal is copied to the archive after its end, so the node may have gone down before that.
    """
    before = state.nodes[place].jobs
    jobs = tuple(Job(archived=job.archived and keeps) for job in before)
    gaps = state.gaps | (0 if keeps else NO_ARCHIVE)
    if any(job.phase in UNCHANGED for job in before):
        gaps |= FORGOTTEN
    return state._replace(nodes=put(state.nodes, place, Node(jobs=jobs)), gaps=gaps)
