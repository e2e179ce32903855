"""`breakglass chat`: a conversation in a terminal.

The operator is asked about each proposal. Only the answer y sends the operator's own signed request.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from ..chat.events import find_proposed_verb
from ..client import Event, HandlerError, NoAnswer, Signer, VerbCall, new_id
from ..client import call as send
from .answers import report_unanswered
from .call import Display, run_verb
from .conversation import ChatClient
from .output import DONE, FAILED, complain, show
from .terminal_text import (
    CHECK_PROMPT,
    LIMIT_USD,
    command_of,
    cost_sentence,
    local_minute,
    shortened,
    without_retracted,
)

_ENDED = ("done", "failed", "refused", "busy")  # the host's last word for an id
_OPEN_FOR = timedelta(days=1)  # one to two days later, the host forgets an id and would run the verb again
_IF_SENT = "the turn may continue; to continue the conversation: breakglass chat --resume"


class Terminal:
    """A conversation in a terminal."""

    def __init__(self, signer: Signer, conversation: ChatClient) -> None:
        self._signer, self._conversation = signer, conversation
        self._code = DONE
        self._calls: dict[object, Event] = {}  # the turn's tool calls, by id

    def run(self) -> int:
        """Run turns until the operator leaves; return the exit code of the last one."""
        try:
            if self._conversation.session and not self._resume():
                return self._code
            while True:
                prompt = input("> ")
                if prompt.strip():
                    self._settle(self._turn(self._conversation.start_turn(prompt)))
        except (EOFError, KeyboardInterrupt):
            show("\n")
        return self._code

    def _turn(self, events: Iterator[Event]) -> list[Event]:
        """Show one turn and return its proposals. The first Ctrl-C stops the turn, the second exits."""
        proposals: list[Event] = []
        stopping = False
        while True:
            try:
                event = next(events, None)
                if event is None:
                    return proposals
                self._show(event)
                if event["type"] == "approval":
                    proposals.append(event)
            except KeyboardInterrupt:
                if stopping:
                    raise
                stopping = True
                show("\n(stopping the turn; Ctrl-C again leaves)\n")
                self._stop()
                events = self._conversation.follow_turn()
            except (HandlerError, NoAnswer) as error:
                self._code = report_unanswered(self._signer, error, _IF_SENT)
                return []

    def _stop(self) -> None:
        try:
            self._conversation.cancel_turn()
        except (HandlerError, NoAnswer) as error:
            complain(f"the turn could not be stopped: {error}", "it may continue; Ctrl-C again leaves")

    # --- proposals ---

    def _settle(self, proposals: list[Event]) -> None:
        """Ask about each proposal. When an approved verb has ended, have claude check the VM."""
        ended = ""
        for each in proposals:
            verb, vm, job, why = (str(each[name]) for name in ("verb", "vm", "job", "why"))
            call = VerbCall(verb, vm, reason=why, if_last=str(each.get("last", "")))
            if self._is_yes(f"run {verb} on {vm}? y/N ") and _approve(job, call):
                ended = job
        if ended and self._may_check():
            show("\n(claude checks the VM, and can only read)\n")
            self._turn(self._conversation.start_check(CHECK_PROMPT, ended))

    def _may_check(self) -> bool:
        """Return whether claude may continue by itself. Above the cost limit, the operator must agree."""
        cost = self._conversation.cost_usd
        return cost < LIMIT_USD or self._is_yes(f"let claude check the VM ({cost_sentence(cost)})? y/N ")

    def _is_yes(self, question: str) -> bool:
        return input(question).strip().lower() == "y"

    # --- a conversation that continues ---

    def _resume(self) -> bool:
        """Show the last turn, and follow it if it still runs. Return whether the conversation can continue."""
        try:
            past = self._conversation.replay()
        except (HandlerError, NoAnswer) as error:
            self._code = report_unanswered(self._signer, error, _IF_SENT)
            return False
        turns = "1 turn" if past.turns == 1 else f"{past.turns} turns"
        show(f"({turns} about {past.vm}; {cost_sentence(self._conversation.cost_usd)})\n")
        show(f"\n({local_minute(past.at)})\n{shortened(past.prompt, '> ')}")
        for event in without_retracted(past.events):
            self._show(event)
        self._code = DONE  # the code of this run, not of the earlier turn
        proposals = [event for event in past.events if event["type"] == "approval"]
        new = self._turn(self._conversation.follow_turn()) if past.is_running else []
        self._settle([each for each in proposals if self._is_open(each, past.at)] + new)
        return True

    def _is_open(self, proposal: Event, at: str) -> bool:
        """Return whether a proposal of an earlier turn can still be approved. If not, print why."""
        verb, vm, job = (str(proposal[name]) for name in ("verb", "vm", "job"))
        try:
            is_young = abs(datetime.now(UTC) - datetime.fromisoformat(at)) < _OPEN_FOR
        except (ValueError, TypeError):
            is_young = False
        outcome = _look_up(self._signer, vm, job) or ("" if is_young else "too old to approve; ask claude again")
        if outcome:
            show(f"({verb} on {vm}: {outcome})\n")
        return not outcome

    # --- showing ---

    def _show(self, event: Event) -> None:
        kind = event["type"]
        if kind == "text":
            show(str(event["text"]) if "text" in event else "\n(the model's stream broke; claude repeats this)\n")
        elif kind == "tool":
            self._calls[event["id"]] = event
            show(f"\n$ {command_of(event)}\n")
        elif kind == "tool_result":
            self._show_result(event)
        elif kind == "approval":
            show(f"\n(claude proposes {event['verb']} on {event['vm']}: {event['why']})\n")
        elif kind == "result":
            cost = cost_sentence(self._conversation.cost_usd)
            show(f"\n({event['seconds']:.1f} s, ${event['cost_usd']:.4f}; {cost})\n")
        elif kind == "error":
            self._code = FAILED
            show("\n")
            complain(str(event["message"]), str(event["hint"]))
        elif kind == "done":
            self._code = DONE if event["ok"] is True else FAILED

    def _show_result(self, event: Event) -> None:
        """Show a tool's result. Skip a refusal, because the proposal after it says the same."""
        call, text = self._calls.pop(event["id"], {}), str(event["text"])
        arguments = call.get("input")
        given = arguments if isinstance(arguments, dict) else {}
        if find_proposed_verb(str(call.get("name")), given, event["ok"] is True, text) is None:
            show(shortened(text))


def _approve(job: str, call: VerbCall) -> bool:
    """Send the operator's own request for a proposal, and return whether the host has ended it."""
    results: list[Event] = []
    run_verb(call, job, Display(), results.append)
    return any(result["outcome"] in _ENDED for result in results)


def _look_up(signer: Signer, vm: str, job_id: str) -> str:
    """Return the outcome of a proposal, or an empty text if the host does not know its id."""
    try:
        result = send(signer, new_id(), VerbCall("history", vm, job=job_id), lambda _: None)
    except (HandlerError, NoAnswer) as error:
        return f"it is not known whether it ran: {error}"
    if result["outcome"] != "done" or "job" not in result:
        return "it is not known whether it ran, because the host can't be asked"
    job = result["job"]
    if not isinstance(job, dict):
        return ""
    return f"approved by {job.get('by')}, and {job.get('outcome') or 'still running'}"
