"""`breakglass chat`: a conversation in a terminal.

Asks about each proposal; only the answer y sends the operator's own signed request. Prints nothing itself: the caller
gives it `show` and `complain`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from ..chat.events import find_proposed_verb
from ..client import Event, HandlerError, NoAnswer, VerbCall
from .conversation import ChatClient
from .terminal_text import (
    CHECK_PROMPT,
    LIMIT_USD,
    command_of,
    cost_sentence,
    local_minute,
    shortened,
    without_retracted,
)

Show = Callable[[str], None]  # text as it is, without its own newline
Complain = Callable[[str, str], None]
Approve = Callable[[str, VerbCall], bool]  # the job's id and the verb: sends it, tells whether the host ended it
LookUp = Callable[[str, str], str]  # a VM and a job's id: what became of it, empty if the host does not know the id

_OPEN_FOR = timedelta(days=1)  # the host remembers an id for one to two days, and would then run it again


@dataclass
class Terminal:
    """A conversation in a terminal. `ask` returns a typed line, or raises EOFError."""

    conversation: ChatClient
    ask: Callable[[str], str]
    show: Show
    complain: Complain
    approve: Approve
    look_up: LookUp
    outcome: str = "done"
    _calls: dict[object, Event] = field(default_factory=dict)  # the turn's tool calls, by their id

    def run(self) -> str:
        """Run turns until the operator leaves; return the outcome of the last one: done, failed or unreached."""
        try:
            if self.conversation.session and not self._resume():
                return self.outcome
            while True:
                prompt = self.ask("> ")
                if prompt.strip():
                    self._settle(self._turn(self.conversation.start_turn(prompt)))
        except (EOFError, KeyboardInterrupt):
            self.show("\n")
        return self.outcome

    def _turn(self, events: Iterator[Event]) -> list[Event]:
        """Show one turn; return its proposals. The first Ctrl-C stops the turn, the second one leaves."""
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
                self.show("\n(stopping the turn; Ctrl-C again leaves)\n")
                self._stop()
                events = self.conversation.follow_turn()
            except (HandlerError, NoAnswer) as error:
                self._report(error)
                return []

    def _report(self, error: HandlerError | NoAnswer) -> None:
        """Say why a request to the handler failed; the outcome is then failed, or unreached if nothing was sent."""
        self.outcome, hint = "failed", error.hint
        if isinstance(error, HandlerError):
            self.complain(str(error), hint)
        elif error.sent:
            self.complain(str(error), "the turn may continue; to continue the conversation: breakglass chat --resume")
        else:
            self.outcome = "unreached"
            self.complain(f"{error}; nothing was sent", hint)

    def _stop(self) -> None:
        try:
            self.conversation.cancel_turn()
        except (HandlerError, NoAnswer) as error:
            self.complain(f"the turn could not be stopped: {error}", "it may continue; Ctrl-C again leaves")

    # --- proposals ---

    def _settle(self, proposals: list[Event]) -> None:
        """Ask about each proposal; once an approved verb has ended, have claude look what became of the VM."""
        ended = ""
        for each in proposals:
            verb, vm, job, why = (str(each[name]) for name in ("verb", "vm", "job", "why"))
            call = VerbCall(verb, vm, reason=why, if_last=str(each.get("last", "")))
            if self._is_yes(f"run {verb} on {vm}? y/N ") and self.approve(job, call):
                ended = job
        if ended and self._may_check():
            self.show("\n(claude checks the VM, and can only read)\n")
            self._turn(self.conversation.start_check(CHECK_PROMPT, ended))

    def _may_check(self) -> bool:
        """Tell whether claude may continue by itself: below the limit always, above it if the operator says so."""
        cost = self.conversation.cost_usd
        return cost < LIMIT_USD or self._is_yes(f"let claude check the VM ({cost_sentence(cost)})? y/N ")

    def _is_yes(self, question: str) -> bool:
        return self.ask(question).strip().lower() == "y"

    # --- a conversation that continues ---

    def _resume(self) -> bool:
        """Show the last turn and follow it if it still runs; tell whether the conversation can continue."""
        try:
            past = self.conversation.replay()
        except (HandlerError, NoAnswer) as error:
            self._report(error)
            return False
        turns = "1 turn" if past.turns == 1 else f"{past.turns} turns"
        self.show(f"({turns} about {past.vm}; {cost_sentence(self.conversation.cost_usd)})\n")
        self.show(f"\n({local_minute(past.at)})\n{shortened(past.prompt, '> ')}")
        for event in without_retracted(past.events):
            self._show(event)
        self.outcome = "done"  # of this run, not of the earlier turn
        proposals = [event for event in past.events if event["type"] == "approval"]
        new = self._turn(self.conversation.follow_turn()) if past.is_running else []
        self._settle([each for each in proposals if self._is_open(each, past.at)] + new)
        return True

    def _is_open(self, proposal: Event, at: str) -> bool:
        """Tell whether a proposal of an earlier turn can still be approved; if not, say why."""
        verb, vm, job = (str(proposal[name]) for name in ("verb", "vm", "job"))
        try:
            is_young = abs(datetime.now(UTC) - datetime.fromisoformat(at)) < _OPEN_FOR
        except (ValueError, TypeError):
            is_young = False
        outcome = self.look_up(vm, job) or ("" if is_young else "too old to approve; ask claude again")
        if outcome:
            self.show(f"({verb} on {vm}: {outcome})\n")
        return not outcome

    # --- showing ---

    def _show(self, event: Event) -> None:
        kind = event["type"]
        if kind == "text":
            self.show(str(event["text"]) if "text" in event else "\n(the model's stream broke; claude repeats this)\n")
        elif kind == "tool":
            self._calls[event["id"]] = event
            self.show(f"\n$ {command_of(event)}\n")
        elif kind == "tool_result":
            self._show_result(event)
        elif kind == "approval":
            self.show(f"\n(claude proposes {event['verb']} on {event['vm']}: {event['why']})\n")
        elif kind == "result":
            cost = cost_sentence(self.conversation.cost_usd)
            self.show(f"\n({event['seconds']:.1f} s, ${event['cost_usd']:.4f}; {cost})\n")
        elif kind == "error":
            self.outcome = "failed"
            self.show("\n")
            self.complain(str(event["message"]), str(event["hint"]))
        elif kind == "done":
            self.outcome = "done" if event["ok"] is True else "failed"

    def _show_result(self, event: Event) -> None:
        """Show a tool's result, except the refusal that the proposal after it stands for."""
        call, text = self._calls.pop(event["id"], {}), str(event["text"])
        arguments = call.get("input")
        given = arguments if isinstance(arguments, dict) else {}
        if find_proposed_verb(str(call.get("name")), given, event["ok"] is True, text) is None:
            self.show(shortened(text))
