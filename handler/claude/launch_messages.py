"""The messages that the process which answers HTTP sends to the launcher. Pure.

The launcher is root, and an attacker may have taken over the sender. So the whole message has to match: the names of a
turn, a session and a VM, and a prompt. Paths, users, programs and variables are the launcher's own.
"""

import re
from typing import NamedTuple

MOST_BYTES = 300 * 1024  # a prompt, of a body of 256 KiB, and the outcomes of proposals before it
# The reply; for a turn also its log, its session's lock, its control, and two or three for the transcript.
FDS = {"check": (1,), "remove": (1,), "turn": (6, 7)}
ACCEPTED, NOT_ISOLATED, FAILED = b"+", b"-", b"!"  # the first byte of a reply, before a text

_SID = rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_MESSAGE = re.compile(
    rb"(?P<check>check)"
    rb"|remove (?P<remove>work/[0-9a-f]{32})"
    rb"|turn (?P<turn>[0-9a-f]{32}) (?P<sid>" + _SID + rb") (?P<how>new|resume)"
    rb" (?P<vm>[a-z][a-z0-9-]{0,31})(?: (?P<tools>host))?\n(?P<prompt>.{1,%d})" % MOST_BYTES,
    re.DOTALL,
)


class Message(NamedTuple):
    """A message; `kind` is a key of FDS. A removal has only a `name`, which is below sessions.dir."""

    kind: str
    name: str = ""
    sid: str = ""
    resume: bool = False
    vm: str = ""
    prompt: str = ""
    tools: str = ""


def encode_turn(key: str, sid: str, resume: bool, vm: str, prompt: str, tools: str = "") -> bytes:
    """Return the message that starts a turn. `tools` is one of TOOLS (brief.py), or empty."""
    return f"turn {key} {sid} {'resume' if resume else 'new'} {' '.join(filter(None, (vm, tools)))}\n{prompt}".encode()


def parse_message(data: bytes) -> Message:
    """Return a message. Raises ValueError for anything else."""
    match = _MESSAGE.fullmatch(data)
    if match is None or len(data) > MOST_BYTES:
        raise ValueError("a message is not of the grammar")
    if match["check"]:
        return Message("check")
    if match["remove"]:
        return Message("remove", match["remove"].decode())
    name, sid, vm, prompt = (match[field].decode() for field in ("turn", "sid", "vm", "prompt"))
    tools = (match["tools"] or b"").decode()
    return Message("turn", name, sid, match["how"] == b"resume", vm, prompt, tools)
