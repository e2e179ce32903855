"""Why a turn went wrong: how claude's process ended and what it said last, to one code, one sentence, one hint.

Judged by `is_error`, never by `subtype`: an API failure calls itself a success.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Table = Mapping[str, Any]

_VERBS_WORK = "the power verbs don't need claude"
_SIGN_IN = f"put a credential into [chat] env or env_file; {_VERBS_WORK}"
_AGAIN = f"try again in a minute; {_VERBS_WORK}"
_NEW = "send the prompt without a session to begin a new conversation"
_WORDS = 2000  # of claude's own that a sentence repeats


@dataclass(frozen=True)
class End:
    """How claude's process ended. `stopped` says why we stopped it, in one of the words of _STOPPED; `exit` is negative
    for a signal, and None when it never ran, for the reason in `missing`."""

    exit: int | None = None
    stderr: str = ""
    stopped: str = ""
    missing: str = ""
    seconds: float = 0.0


_STOPPED = {
    "cancelled": ("cancelled", "stopped on request", "what it had already started inside the VM may still run there"),
    "turn-timeout": ("turn-timeout", "the turn used up its {seconds:g} s", "continue the session to go on"),
    "silent": (
        "claude-unreachable",
        "the model's service stopped in the middle: no word for {seconds:g} s",
        f"continue the session to try again; {_VERBS_WORK}",
    ),
    "shutting-down": ("shutting-down", "the handler was stopped, and the turn with it", "continue the session"),
    "unsavable": (
        "session-lost",
        "claude can't write to its own directory under sessions.dir, so the turn was not begun",
        "is it read-only, or another user's? without it no conversation could be continued",
    ),
    "keyless": (
        "claude-crashed",
        "the read-only key could not be loaded into ssh-agent",
        "install openssh-client, or check agent_key",
    ),
    "flood": ("claude-crashed", "the turn was stopped: its events would not end", "continue the session to try again"),
    "disk": ("claude-crashed", "the events can't be written down: sessions.dir is full or broken", "make room there"),
}


def error(code: str, message: str, hint: str) -> dict[str, str]:
    return {"code": code, "message": message, "hint": hint}


def failure(end: End, result: Table | None, limits: Table, unsaved: bool) -> dict[str, str] | None:
    """Return what an `error` event says, or None for a turn that went well."""
    whole = result is not None and not result.get("is_error") and end.exit == 0
    if end.stopped and not whole:  # a stop that came after the last word stopped nothing
        code, message, hint = _STOPPED[end.stopped]
        return error(code, message.format(seconds=end.seconds), hint)
    if end.exit is None:
        return error("claude-missing", f"claude could not be started: {end.missing}", f"see [chat]; {_VERBS_WORK}")
    if result is not None and result.get("is_error"):
        return _told(result, limits)
    if result is None or end.exit != 0:
        return _crashed(end)
    if unsaved:
        hint = f"make room in sessions.dir; {_NEW}"
        return error("session-lost", "the answer is whole, but the conversation could not be saved", hint)
    return None


def _crashed(end: End) -> dict[str, str]:
    words = end.stderr.strip()[-_WORDS:]
    if "is already in use" in words:
        return error("busy", "another turn of this session is under way", "wait for it, or attach to it")
    if "No conversation found" in words:
        return _lost()
    how = (
        f"was killed by signal {-end.exit}" if end.exit is not None and end.exit < 0 else f"ended with exit {end.exit}"
    )
    said = f"; its last words: {words}" if words else " and said nothing"
    cut = " in the middle of its output" if end.exit == 0 else ""
    return error("claude-crashed", f"claude {how}{cut}{said}", f"continue the session to try again; {_VERBS_WORK}")


def _lost() -> dict[str, str]:
    return error("session-lost", "the conversation is not in sessions.dir any more", _NEW)


def _told(result: Table, limits: Table) -> dict[str, str]:
    """Return the error that a result names."""
    errors = result.get("errors")
    listed = [each for each in errors if isinstance(each, str)] if isinstance(errors, list) else []
    words = str(result.get("result") or "; ".join(listed))[:_WORDS]
    status = result.get("api_error_status")
    if "No conversation found" in words:
        return _lost()
    if status in (401, 403) or "Not logged in" in words:
        return error("claude-auth", f"claude is not signed in: {words}", _SIGN_IN)
    if status == 429 or limits.get("status") == "rejected":
        return error("claude-rate-limited", f"rate-limited{_until(limits)}: {words}", f"wait; {_VERBS_WORK}")
    if isinstance(status, int) and status >= 500:
        return error("claude-overloaded", f"the model's service is overloaded (HTTP {status}): {words}", _AGAIN)
    if result.get("terminal_reason") == "api_error" and status is None:
        hint = f"check this host's network and DNS; {_VERBS_WORK}"
        return error("claude-unreachable", f"the model's service can't be reached: {words}", hint)
    if result.get("subtype") in ("error_max_turns", "error_max_budget_usd"):
        return error("turn-timeout", "the turn used up its steps", "continue the session to go on")
    return error(
        "claude-crashed", f"claude gave up: {words or 'without a reason'}", "continue the session to try again"
    )


def _until(limits: Table) -> str:
    try:
        return f" until {datetime.fromtimestamp(float(limits['resetsAt']), UTC):%H:%M} UTC"
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return ""
