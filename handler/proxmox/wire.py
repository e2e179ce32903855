"""The host agent's protocol in both directions: request lines and the session's messages. Pure.

Parsing is strict, because the output of another forced command, or half an answer, must never count as an outcome.
"""

import base64
import json
from collections.abc import Mapping

from ..alerts.rules import Capture
from ..base.allowance import ANSWER_BYTES, TOO_LONG, VALUE_BYTES
from ..base.errors import Lost
from ..base.text import REASON_BYTES, cut_utf8
from .outcome import HTTP_STATUS, Message, is_deadline
from .request import VerbRequest

SESSION_LINE = "session"  # starts the resident session, for all VMs of the key
PING_LINE = "ping"  # asks the host agent for a sign of life
CHECK_LINE = "check"  # asks what is wrong with the host; if vm=N follows, what is wrong with that VM on it


def is_message(message: Mapping[str, object]) -> bool:
    """Return whether an object has the shape of a message.

    The handler ignores other objects, because a newer host agent may send more kinds.
    """
    kind = message.get("type")
    if kind == "output":
        return isinstance(message.get("stream"), str) and isinstance(message.get("text"), str)
    if kind == "stage":
        texts = (message.get("stage"), message.get("started"))
        return all(isinstance(text, str) for text in texts) and is_deadline(message.get("deadline"))
    code = message.get("exit_code")
    return kind == "result" and isinstance(code, int) and message.get("outcome") in HTTP_STATUS


def read_message(line: bytes) -> Message | None:
    """Return the message in a line of the session, or None if the line is not a message."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and is_message(message) else None


class Replay:
    """Recognizes the messages of a job that were already passed on.

    If a host is asked again for the same job, it sends all messages again from the beginning. Repeats included, it may
    not send more than one answer may have, because the handler keeps the messages until the end.
    """

    def __init__(self) -> None:
        self._passed = 0  # output and stage messages that were passed on
        self._bytes = 0  # of those
        self._repeated = 0  # how many of the passed messages the host still has to repeat

    def begin(self) -> None:
        """Expect the messages from the beginning again."""
        self._repeated = self._passed

    def is_new(self, message: Mapping[str, object]) -> bool:
        """Return whether a message was not passed on yet (a result is always new). Raises Lost at the limit."""
        if message["type"] == "result":
            return True
        self._repeated -= 1
        if self._repeated >= 0:
            return False
        self._passed += 1
        self._bytes += len(str(message)) + VALUE_BYTES * len(message)
        if self._bytes > ANSWER_BYTES:
            raise Lost(TOO_LONG)
        return True


def line_of(verb: str, vmid: int, note: str = "", **words: str) -> str:
    """Return a line about a VM, with the words that have a value, and a note, which is only data for the record."""
    given = [f"{name}={value}" for name, value in words.items() if value]
    return " ".join([verb, f"vm={vmid}", *given, *([_note(note)] if note else [])])


def vmid_in(line: str) -> int:
    """Return the number of the VM in a line that this file wrote."""
    return int(line.split()[1].removeprefix("vm="))


def verb_line(request: VerbRequest) -> str:
    """Return the line for a request. The body parser matched every part against the grammar."""
    by, proves = request.caller.name, request.proves
    if not request.rules.is_job:
        return line_of(request.verb, request.vm.vmid, by=by if proves else "", proves=proves)
    conditions = {"if": request.if_state, "last": request.if_last, "anyway": request.anyway, "proves": proves}
    return line_of(request.verb, request.vm.vmid, request.reason, id=request.id, by=by, **conditions)


def capture_line(capture: Capture, vmid: int, caller: str) -> str:
    """Return the line for an alert's capture. The payload's text appears only in the note, as data."""
    words = {"id": capture.job, "by": caller, "fresh": str(capture.fresh_seconds)}
    return f"{line_of('forensics', vmid, capture.why, **words)} detach"


def _note(text: str) -> str:
    """Return a reason as a word of the grammar, cut to REASON_BYTES. It is only data for the record."""
    return "note=" + base64.urlsafe_b64encode(cut_utf8(text, REASON_BYTES).encode()).decode().rstrip("=")
