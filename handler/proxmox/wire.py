"""What the host agent says, told apart from what only looks like it: lines of the session, and one exec's output. Pure.

Strict, because a forced command that is not ours, or half an answer, must never be taken for an outcome.
"""

import base64
import json
from collections.abc import Mapping

from ..alerts.captures import Capture
from ..config.model import Vm
from ..text import REASON_BYTES, cut_utf8
from ..verbs import VERBS
from .outcome import HTTP_STATUS, Lost, Message, is_deadline
from .request import PveRequest


def is_message(message: Mapping[str, object]) -> bool:
    """Tell whether an object has the shape of an answer. Others are passed over: they are no answer, nor an error, for
    a newer host may have more to say."""
    kind = message.get("type")
    if kind == "output":
        return isinstance(message.get("stream"), str) and isinstance(message.get("text"), str)
    if kind == "stage":
        texts = (message.get("stage"), message.get("started"))
        return all(isinstance(text, str) for text in texts) and is_deadline(message.get("deadline"))
    code = message.get("exit_code")
    return kind == "result" and isinstance(code, int) and message.get("outcome") in HTTP_STATUS


LINE_BYTES = 16 * 1024 * 1024  # of one line, or of one exec's output; an honest host agent's longest has 6 MiB
TOO_LONG = f"the host sent more than {LINE_BYTES // 2**20} MiB without ending its answer"


class LineBuffer:
    """Cuts a stream into lines. It keeps at most one unfinished line of LINE_BYTES, whatever the host sends."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Return the lines that the data completes, without their ends; raise Lost when a line is too long."""
        *ends, rest = data.split(b"\n")
        lines = []
        for end in ends:
            self._keep(end)
            lines.append(b"".join(self._parts))
            self._parts, self._size = [], 0
        self._keep(rest)
        return lines

    def _keep(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > LINE_BYTES:
            self._parts = []
            raise Lost(TOO_LONG)
        if part:
            self._parts.append(part)


class Replay:
    """Tells what was said already when a host says it again: whoever attaches hears the job from its beginning."""

    def __init__(self) -> None:
        self._passed = 0  # lines of output and stages, so far
        self._again = 0  # of them, still to be said again

    def begin(self) -> None:
        """Take what comes from here on for another telling, from the beginning."""
        self._again = self._passed

    def is_new(self, message: Mapping[str, object]) -> bool:
        """Tell whether a message was not passed on before; a result always is new."""
        if message["type"] == "result":
            return True
        self._again -= 1
        self._passed += self._again < 0
        return self._again < 0


def exec_messages(stdout: bytes, stderr: bytes, exit_status: int | None) -> list[Message]:
    """Return what one exec said as messages. The trailer counts only as the last line, newline-ended, and when the
    exit status arrived and agrees; anything else is Lost."""
    head, _, last = stdout.removesuffix(b"\n").rpartition(b"\n")
    if not stdout.endswith(b"\n") or not last.startswith(b"#breakglass "):
        raise Lost("the answer ended without its last line")
    try:
        trailer = json.loads(last.removeprefix(b"#breakglass "))
    except (ValueError, RecursionError):
        raise Lost("the answer's last line is damaged") from None
    if not isinstance(trailer, dict) or not is_message({**trailer, "type": "result"}):
        raise Lost("the answer's last line is not a trailer")
    if exit_status is None or exit_status < 0 or trailer["exit_code"] != exit_status:
        raise Lost("the answer's last line and its exit status differ")
    texts = (("stdout", head + b"\n" if head else b""), ("stderr", stderr))
    output: list[Message] = [
        {"type": "output", "stream": stream, "text": text.decode("utf-8", "replace")} for stream, text in texts if text
    ]
    return [*output, {"type": "result", **trailer}]


def note_word(text: str) -> str:
    """Return a reason as a word of the host's grammar: data for the record, cut to REASON_BYTES."""
    return "note=" + base64.urlsafe_b64encode(cut_utf8(text, REASON_BYTES).encode()).decode().rstrip("=")


def verb_line(request: PveRequest, vm: Vm, msg_id: str, caller: str) -> str:
    """Return the line for the host agent's grammar; every part was full-matched before."""
    if not VERBS[request.verb].is_job:
        return f"{request.verb} vm={vm.vmid}"
    words = [request.verb, f"vm={vm.vmid}", f"id={msg_id}", f"by={caller}"]
    if request.if_state:
        words.append(f"if={request.if_state}")
    if request.if_last:
        words.append(f"last={request.if_last}")
    if request.anyway:
        words.append(f"anyway={request.anyway}")
    if request.reason:
        words.append(note_word(request.reason))
    return " ".join(words)


def capture_line(capture: Capture, vmid: int, by: str) -> str:
    """Return the line for the host agent's grammar; what the payload said is in the note alone, as data."""
    words = ["forensics", f"vm={vmid}", f"id={capture.job}", f"by={by}", f"fresh={capture.fresh_seconds}"]
    return " ".join([*words, note_word(capture.why), "detach"])
