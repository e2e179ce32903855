"""The endings that the handler gives to turns, in place of the runner. Pure."""

from ..claude.eventlog import build_ending
from ..claude.events import encode_event

ErrorText = tuple[str, str, str]  # code, message, hint of an `error` event

KILLED = (
    "claude-crashed",
    "the turn ended early, because a process that it needs was killed",
    "ask again: the conversation goes on",
)
STOPPING = ("shutting-down", "Breakglass is stopping here, but the turn continues", "look at it again in a moment")
LAST_PLACE = (
    "busy",
    "you already have a turn, perhaps in another tab, and the last free place is kept for another caller",
    "wait for your turn to end or stop it, then ask again; or raise chat.max_turns_at_once",
)
UNREADABLE = (
    "claude-crashed",
    "the turn's events can't be read: sessions.dir does not answer",
    "look at it again in a moment",
)


def encode_ending(error: ErrorText, number: int) -> bytes:
    """Return the last lines of a stream whose turn has another end, in its log."""
    return b"".join(map(encode_event, build_ending(*error, number + 1)))
