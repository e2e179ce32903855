"""The endings that the handler gives to turns, in place of the runner. Pure."""

from ..claude.eventlog import build_ending
from ..claude.events import encode_event

ErrorText = tuple[str, str, str]  # code, message, hint of an `error` event

KILLED = (
    "claude-crashed",
    "the turn ended early, because its runner or the handler was killed",
    "continue the session",
)
STOPPING = ("shutting-down", "this handler is stopping, but the turn continues", "attach to it again in a moment")
LAST_PLACE = (
    "busy",
    "you already have a turn, perhaps in another tab, and the last free place is kept for another caller",
    "wait for your turn to end or stop it, and send this with a new id; or raise chat.max_turns_at_once",
)
UNREADABLE = ("claude-crashed", "the turn's events can't be read: sessions.dir does not answer", "attach to it again")


def encode_ending(error: ErrorText, number: int) -> bytes:
    """Return the last lines of a stream whose turn has another end, in its log."""
    return b"".join(map(encode_event, build_ending(*error, number + 1)))
