"""`breakglass chat`: a conversation in a terminal.

Asks about each proposal; only the answer y sends the operator's own signed request. Prints nothing itself: the caller
gives it `show` and `complain`.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..client import Event, HandlerError, NoAnswer, VerbCall
from .conversation import Conversation

LINES = 4  # of a tool's result that are shown

Show = Callable[[str], None]  # text as it is, without a newline of its own
Complain = Callable[[str, str], None]
Approve = Callable[[str, VerbCall], str]  # the job's id and the verb: sends it, returns its outcome as a sentence


@dataclass
class Terminal:
    """A conversation in a terminal. `ask` returns a typed line, or raises EOFError."""

    conversation: Conversation
    ask: Callable[[str], str]
    show: Show
    complain: Complain
    approve: Approve
    save: Callable[[str], None]
    outcome: str = "done"

    def run(self) -> str:
        """Run turns until the operator leaves; return the outcome of the last one: done, failed or unreached."""
        try:
            while True:
                prompt = self.ask("> ")
                while prompt.strip():
                    prompt = self._ask_approvals(self._turn(prompt))
        except (EOFError, KeyboardInterrupt):
            self.show("\n")
        return self.outcome

    def _turn(self, prompt: str) -> list[Event]:
        """Show one turn; return its proposals. The first Ctrl-C stops the turn, the second one leaves."""
        proposals: list[Event] = []
        events = self.conversation.start_turn(prompt)
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
            except HandlerError as error:
                self.outcome = "failed"
                self.complain(str(error), error.hint)
                return []
            except NoAnswer as lost:
                self._report_loss(lost)
                return []

    def _report_loss(self, lost: NoAnswer) -> None:
        if lost.sent:
            self.outcome = "failed"
            self.complain(str(lost), "the turn may continue; to continue the session: breakglass chat --resume")
        else:
            self.outcome = "unreached"
            self.complain(f"{lost}; nothing was sent", lost.hint)

    def _stop(self) -> None:
        try:
            self.conversation.cancel_turn()
        except (HandlerError, NoAnswer) as error:
            self.complain(f"the turn could not be stopped: {error}", "it may continue; Ctrl-C again leaves")

    def _ask_approvals(self, proposals: list[Event]) -> str:
        """Ask about each proposal; return a prompt that tells claude the answers, empty if there is none."""
        sentences = []
        for each in proposals:
            verb, vm, job, why = (str(each[name]) for name in ("verb", "vm", "job", "why"))
            answer = self.ask(f"run {verb} on {vm}? y/N ").strip().lower()
            if answer == "y":
                sentences.append(f"I approved {verb} on {vm}. {self.approve(job, VerbCall(verb, vm, why))}")
            else:
                sentences.append(f"I did not approve {verb} on {vm}; it was not run.")
        return " ".join(sentences)

    # --- showing ---

    def _show(self, event: Event) -> None:
        kind = event["type"]
        if kind == "session" and "session" in event:
            self.save(self.conversation.session)
        elif kind == "text":
            self.show(str(event["text"]) if "text" in event else "\n(the model's stream broke; claude repeats this)\n")
        elif kind == "tool":
            self.show(f"\n$ {_command_of(event)}\n")
        elif kind == "tool_result":
            self.show(_shortened(str(event["text"])))
        elif kind == "approval":
            self.show(f"\n(claude proposes {event['verb']} on {event['vm']})\n")
        elif kind == "result":
            self.show(f"\n({event['seconds']:.1f} s, ${event['cost_usd']:.4f})\n")
        elif kind == "error":
            self.outcome = "failed"
            self.show("\n")
            self.complain(str(event["message"]), str(event["hint"]))
        elif kind == "done":
            self.outcome = "done" if event["ok"] is True else "failed"


def _command_of(event: Event) -> str:
    arguments = event["input"]
    if isinstance(arguments, Mapping) and isinstance(arguments.get("command"), str):
        return str(arguments["command"])
    return f"{event['name']} {json.dumps(arguments)}"


def _shortened(text: str) -> str:
    lines = text.splitlines()
    more = [f"… {len(lines) - LINES} more lines"] if len(lines) > LINES + 1 else []
    return "".join(f"  {line}\n" for line in [*(lines[:LINES] if more else lines), *more])


def session_file(environment: Mapping[str, str]) -> Path:
    """Return the file with the last session token for --resume; the token is useless without the signing key."""
    state = environment.get("XDG_STATE_HOME") or f"{environment.get('HOME', '.')}/.local/state"
    return Path(state) / "breakglass" / "session"


def save_session(path: Path, session: str) -> None:
    """Save a session token for --resume, if the file can be written."""
    try:
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        path.touch(0o600)
        path.write_text(session, encoding="ascii")
    except OSError:
        pass


def load_session(path: Path) -> str:
    """Return the saved session token; raise ValueError if there is none."""
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        raise ValueError(f"there is no session to resume in {os.fspath(path)}") from None
