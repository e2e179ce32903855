"""What a handler does with a sending. It asks the hosts, chooses one, sends the verb there, and waits. Pure."""

from collections.abc import Iterator

from .world import (
    CLEAR,
    FIRST,
    IDS,
    NOWHERE,
    Answer,
    At,
    Gap,
    Line,
    Phase,
    Promise,
    Rules,
    Sending,
    State,
    Step,
    Told,
    end,
    has_process,
    name,
    put,
    put_handler,
    put_job,
    put_sending,
)


def handle(state: State, rules: Rules, number: int, sending: Sending) -> Iterator[Step]:
    """Yield what a handler can do next with a sending that has no answer yet."""
    handler, what = state.handlers[sending.handler], name(number)
    is_linked = handler.links[sending.node] == Line.UP
    if sending.at == At.ARRIVED:
        yield from _ask(state, rules, number, sending)
    elif sending.at == At.CHOSEN:
        yield _send(state, rules, number, sending)
    elif sending.at == At.SENT:
        if is_linked:
            reached = deliver(state, rules, number, sending.node)
            yield f"node {sending.node} reads {what}", put_sending(reached, number, sending._replace(at=At.ATTACHED))
    elif sending.at == At.ATTACHED:
        if is_linked:
            yield from _wait(state, rules, number, sending)
    else:  # LOST
        if is_linked:
            again = put_sending(state, number, sending._replace(at=At.SENT))
            yield f"handler {sending.handler} sends {what} again", again
        if rules.gives_up or is_linked:
            told = Told.UNREACHED if sending.stray and not rules.knows_what_left else Told.UNKNOWN
            yield f"handler {sending.handler} gives {what} up", _tell(state, number, told)


def _tell(state: State, number: int, told: int) -> State:
    return end(state, number, told, state.sendings[number].stray)


def shown_place(state: State, place: int, rules: Rules) -> int:
    """Return the node that has the VM as a node says it; NOWHERE without the cluster and without a process."""
    sees = state.nodes[place].sees
    if sees == CLEAR:
        return state.place
    if has_process(state, place):
        return place
    return NOWHERE if rules.proves_by_quorum else sees


def _ask(state: State, rules: Rules, number: int, sending: Sending) -> Iterator[Step]:
    """Ask both hosts for the id and for the VM, and choose one of them once both have answered, or are silent."""
    to, what = sending.handler, name(number)
    if not rules.asks_hosts:
        node = state.handlers[to].node
        chosen = put_sending(state, number, sending._replace(at=At.CHOSEN, node=node))
        yield f"handler {to} chooses node {node} for {what}", chosen
    elif state.apart and sending.first is None:
        for place in (0, 1):
            first = (place, _answer(state, rules, number, place))
            asked = put_sending(state, number, sending._replace(first=first))
            yield f"handler {to} asks for {what}: {_describe(*first)}", asked
    else:
        answers = {place: _answer(state, rules, number, place) for place in (0, 1)}
        if sending.first is not None:
            answers[sending.first[0]] = sending.first[1]
        yield _choose(state, rules, number, sending, answers)


def _answer(state: State, rules: Rules, number: int, place: int) -> Answer | None:
    """Return what a host answers; None if it is silent."""
    handler = state.handlers[state.sendings[number].handler]
    if handler.links[place] != Line.UP or (place == handler.node and not rules.asks_all):
        return None  # a connection to a node that is down is not up
    job = state.nodes[place].jobs[IDS[number]]
    is_new = job.phase == Phase.NONE or (job.phase == Phase.ELSEWHERE and not rules.elsewhere_is_known)
    is_known = not is_new or (job.archived and rules.asks_archive)
    is_lie = state.lies and place == 1
    sure, runs = state.nodes[place].sees == CLEAR or not rules.proves_by_quorum, has_process(state, place)
    return Answer((is_known and rules.goes_where_known) or is_lie, shown_place(state, place, rules), sure, runs)


def _describe(place: int, answer: Answer | None) -> str:
    if answer is None:
        return f"node {place} does not answer yet"
    if answer.known:
        return f"node {place} knows it"
    where = "does not know where the VM is" if answer.shown == NOWHERE else f"says that node {answer.shown} has the VM"
    return f"node {place} {where}"


def _choose(state: State, rules: Rules, number: int, sending: Sending, answers: dict[int, Answer | None]) -> Step:
    """Choose a host by the answers that came, or answer that no host can be chosen."""
    to, what = sending.handler, name(number)
    handler = state.handlers[to]
    asks = f"handler {to} asks for {what}"
    heard = {place: answer for place, answer in answers.items() if answer is not None}
    sure = [place for place, answer in heard.items() if answer.sure and answer.shown == place]
    for place, answer in heard.items():
        if answer.known and (_is_repeated(state, rules, number) or not rules.doubts_claims or sure == [place]):
            if state.lies and place == 1 and sure == [0] and not _is_repeated(state, rules, number):
                state = state._replace(wrong=Promise.FOUND)
            return f"{asks}: node {place} knows it", _go(state, number, sending, place, is_known=True)
        if answer.known:
            told = _tell(state, number, Told.UNREACHED)
            return f"{asks}: node {place} says that it knows it, and does not have the VM", told
    shown = {place: answer.shown for place, answer in heard.items()}
    proofs = sure or [place for place in heard if shown[place] == place]
    if len(proofs) > 1 and rules.needs_one_proof:
        again = put_sending(state, number, sending._replace(first=None))
        return f"{asks}: both nodes say that they have the VM", again if state.apart else again._replace(
            wrong=Promise.FOUND
        )
    if proofs:
        node = proofs[0] if len(proofs) == 1 or sending.first is None else 1 - sending.first[0]
        why = f"node {node} has the VM"
        state = put_handler(state, to, handler._replace(node=node))
    elif named := [place for place in shown.values() if place != NOWHERE]:
        node, why = named[0], f"node {named[0]} is said to have the VM"
        if handler.links[node] == Line.DOWN:
            return f"{asks}: {why}, which can't be reached", _tell(state, number, _nothing_sent(state, rules, number))
    else:
        node, why = handler.node, f"nothing is known of the VM, last seen on node {handler.node}"
    home = next((answer.shown for answer in heard.values() if answer.sure), NOWHERE)
    copies = [place for place, answer in heard.items() if answer.runs and home not in (NOWHERE, place)]
    if copies and IDS[number] == 0:
        if rules.refuses_second:
            told = _tell(state, number, _nothing_sent(state, rules, number))
            return f"{asks}: node {copies[0]} runs the VM, which node {home} has", told
        state = state._replace(wrong=Promise.SINGLE)
    elif copies and home in heard and not heard[home].runs:
        if rules.ends_copies:
            node, why = copies[0], f"only node {copies[0]} runs the VM, which node {home} has"
        else:
            state = state._replace(wrong=Promise.ENDS_IT)
    asked = [place for place in (0, 1) if rules.asks_all or place != handler.node]
    silent = [place for place in asked if place not in heard and place != node]
    if silent and rules.waits_for_all and _is_repeated(state, rules, number):
        return f"{asks}: node {silent[0]} does not answer", _tell(state, number, Told.UNKNOWN)
    if silent:
        state = state._replace(gaps=state.gaps | _unasked(state, rules, number))
    elif not state.apart and state.place in heard and shown[state.place] == state.place != node and node not in copies:
        state = state._replace(wrong=Promise.FOUND)
    return f"{asks}: {why}", _go(state, number, sending, node)


def _go(state: State, number: int, sending: Sending, node: int, is_known: bool = False) -> State:
    """Choose a node. Where another line of the id may still come to the other node, this is a documented gap."""
    others = [s for n, s in enumerate(state.sendings) if IDS[n] == IDS[number] and n != number]
    if any(_may_still_reach(state, other, 1 - node, IDS[number]) for other in others):
        state = state._replace(gaps=state.gaps | Gap.MOVED_MEANWHILE)
    return put_sending(state, number, sending._replace(at=At.CHOSEN, node=node, known=is_known, first=None))


def _may_still_reach(state: State, sending: Sending, place: int, job_id: int) -> bool:
    """Tell whether a line is on its way to a node, or is sent there again because the node has lost it by a boot."""
    is_forgotten = sending.at == At.ATTACHED and state.nodes[place].jobs[job_id].phase == Phase.NONE
    is_under_way = sending.at in (At.CHOSEN, At.SENT, At.LOST) or is_forgotten
    return (is_under_way and sending.node == place) or sending.stray == place + 1


def _is_repeated(state: State, rules: Rules, number: int) -> bool:
    sent = state.handlers[state.sendings[number].handler].sent[IDS[number]]
    return bool((not FIRST[number] and rules.says_again) or (sent and rules.remembers_sent))


def _unasked(state: State, rules: Rules, number: int) -> int:
    """Return the gap in which a sending continues although a host could not be asked for its id."""
    if not FIRST[number]:
        return 0 if rules.says_again else Gap.NO_AGAIN
    is_overtaken = any(
        IDS[n] == IDS[number] and n != number and s.at > At.ARRIVED for n, s in enumerate(state.sendings)
    )
    return Gap.OVERTAKEN if is_overtaken else 0


def _nothing_sent(state: State, rules: Rules, number: int) -> int:
    """Return the answer of a handler that has sent nothing: `unreached`, or `unknown` if the id may have acted."""
    sending = state.sendings[number]
    if _is_repeated(state, rules, number) or (sending.known and rules.denies_nothing_known):
        return Told.UNKNOWN
    is_denied = sending.known or state.handlers[sending.handler].sent[IDS[number]]
    return Told.DENIED if is_denied else Told.UNREACHED


def _send(state: State, rules: Rules, number: int, sending: Sending) -> Step:
    """Send the line to the chosen node, or answer that none was sent; a dead connection shows by its ping."""
    to, job_id, node = sending.handler, IDS[number], sending.node
    handler, what = state.handlers[to], name(number)
    words = f"handler {to} sends {what} to node {node}"
    if handler.links[node] != Line.UP:
        words = f"handler {to} can't reach node {node} for {what}"
        state = cut(state, to, node)
        handler, sending = state.handlers[to], state.sendings[number]
        stays = rules.stays_where_known if sending.known else rules.stays
        if stays or handler.links[1 - node] != Line.UP:
            return words, _tell(state, number, _nothing_sent(state, rules, number))
        node = 1 - node
        words = f"{words}, and sends it to node {node}"
    state = put_handler(state, to, handler._replace(sent=put(handler.sent, job_id, 1)))
    return words, put_sending(state, number, sending._replace(at=At.SENT, node=node))


def cut(state: State, number: int, place: int) -> State:
    """A handler sees that a connection is dead: what was sent may have got there, may still, or never does."""
    handler = state.handlers[number]
    state = put_handler(state, number, handler._replace(links=put(handler.links, place, Line.DOWN)))
    sendings = tuple(
        s
        if s.handler != number or s.node != place or s.at not in (At.SENT, At.ATTACHED)
        else s._replace(at=At.LOST, stray=place + 1 if s.at == At.SENT else s.stray)
        for s in state.sendings
    )
    return state._replace(sendings=sendings)


def deliver(state: State, rules: Rules, number: int, place: int) -> State:
    """A node reads a line: a known id attaches, and a new one becomes a job."""
    job_id = IDS[number]
    job = state.nodes[place].jobs[job_id]
    is_new = job.phase == Phase.NONE or (job.phase >= Phase.DONE and not rules.claims_once)
    if job.phase == Phase.ELSEWHERE and not rules.elsewhere_is_final:
        is_new = True
    return put_job(state, place, job_id, job._replace(phase=Phase.CLAIMED)) if is_new else state


def _runs_elsewhere(state: State, sending: Sending) -> bool:
    """Tell whether the other host answers that it runs the VM, while a second QEMU is possible."""
    other = 1 - sending.node
    is_heard = state.handlers[sending.handler].links[other] == Line.UP
    return state.twice and is_heard and has_process(state, other)


def _wait(state: State, rules: Rules, number: int, sending: Sending) -> Iterator[Step]:
    """The job's end is the answer."""
    job = state.nodes[sending.node].jobs[IDS[number]]
    what = name(number)
    if job.phase == Phase.DONE and IDS[number] == 1 and _runs_elsewhere(state, sending):
        if rules.proves_stops:
            yield f"{what} is answered: the other node runs the VM", _tell(state, number, Phase.FAILED)
        else:
            yield f"{what} is answered", _tell(state._replace(wrong=Promise.TRUE), number, Phase.DONE)
    elif job.phase >= Phase.DONE:
        yield f"{what} is answered", _tell(state, number, job.phase)
    elif job.phase == Phase.NONE:  # the node has booted: its /run is empty
        yield f"{what} is not known any more: sent again", put_sending(state, number, sending._replace(at=At.SENT))
