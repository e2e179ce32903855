"""Finds the code, sentence and hint for a failed turn, from claude's exit status and its last output.

`is_error` decides, never `subtype`, because the result of an API failure has the subtype "success".
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

Table = Mapping[str, Any]

_VERBS_WORK = "the power verbs don't need claude"
_SIGN_IN = f"put a valid credential into the file that chat.credential_file names, and reload; {_VERBS_WORK}"
_AGAIN = f"try again in a minute; {_VERBS_WORK}"
_NEW = "begin a new conversation"
_GO_ON = "ask again: the conversation continues"
_MOST_MINUTES = 2**31  # since 1970; a larger number is not a time
_NOT_RUN = (126, 127)  # exit codes of a shell: the program does not exist, or can't be run
_QUOTED_CHARS = 2000  # the most characters of claude's text that a sentence repeats


class TurnError(NamedTuple):
    """The fields of an `error` event."""

    code: str
    message: str
    hint: str


KILLED = TurnError("claude-crashed", "the turn ended early, because a process that it needs was killed", _GO_ON)
LOST = TurnError("session-lost", "the conversation is no longer in sessions.dir", _NEW)
STOPPING = TurnError("shutting-down", "the handler was stopped, which also stopped the turn", _GO_ON)
UNSAVED = TurnError(
    "claude-crashed",
    "the turn's events can't be written: sessions.dir is full or broken",
    "run breakglass doctor, which says how to fix it",
)


class End(NamedTuple):
    """How claude's process ended.

    `stopped` is a key of _STOPPED: why the worker stopped the process. `exit` is negative for a signal. `unsaved` means
    that the transcript could not be saved.
    """

    exit: int
    stderr: str = ""
    stopped: str = ""
    seconds: float = 0.0
    unsaved: bool = False


_STOPPED = {
    "cancelled": TurnError(
        "cancelled", "stopped on request", "commands that claude started inside the VM may still run there"
    ),
    "turn-timeout": TurnError("turn-timeout", "the turn reached its limit of {seconds:g} s", _GO_ON),
    "silent": TurnError(
        "claude-unreachable", "the model API sent nothing for {seconds:g} s", f"{_GO_ON}; {_VERBS_WORK}"
    ),
    "shutting-down": STOPPING,
    "proxyless": TurnError(
        "claude-crashed",
        "the turn was stopped, because its connection to the model API ended when the process that holds it was killed",
        f"{_GO_ON}; {_VERBS_WORK}",
    ),
}


def describe_stop(why: str, seconds: float) -> TurnError:
    """Return the failure of a turn that was stopped; `why` is a key of _STOPPED."""
    failure = _STOPPED[why]
    return failure._replace(message=failure.message.format(seconds=seconds))


def describe_failure(end: End, result: Table | None, limits: Table, unsaved: bool) -> TurnError | None:
    """Return why a turn failed, or None for one that succeeded."""
    is_complete = result is not None and not result.get("is_error") and end.exit == 0
    if end.stopped and not is_complete:  # a stop after the result had no effect
        return describe_stop(end.stopped, end.seconds)
    if result is not None and result.get("is_error"):
        return _describe_result(result, limits)
    if result is None or end.exit != 0:
        return _describe_crash(end)
    if unsaved or end.unsaved:
        what = (
            "the answer is complete, but it could not be saved, perhaps because the conversation is longer than 64 MiB"
        )
        return TurnError("session-lost", what, _NEW)
    return None


def _describe_crash(end: End) -> TurnError:
    stderr = end.stderr.strip()[-_QUOTED_CHARS:]
    if "No conversation found" in stderr:
        return LOST
    if end.exit in _NOT_RUN:
        hint = f"check chat.command in the configuration; {_VERBS_WORK}"
        return TurnError("claude-missing", f"claude could not be started: {stderr}", hint)
    how = f"was killed by signal {-end.exit}" if end.exit < 0 else f"ended with exit {end.exit}"
    last_output = f"; stderr ends with: {stderr}" if stderr else " and wrote nothing to stderr"
    cut = " in the middle of its output" if end.exit == 0 else ""
    return TurnError("claude-crashed", f"claude {how}{cut}{last_output}", f"{_GO_ON}; {_VERBS_WORK}")


def _describe_result(result: Table, limits: Table) -> TurnError:
    """Return the failure that a result reports."""
    errors = result.get("errors")
    listed = [each for each in errors if isinstance(each, str)] if isinstance(errors, list) else []
    words = str(result.get("result") or "; ".join(listed))[:_QUOTED_CHARS]
    status = result.get("api_error_status")
    if "No conversation found" in words:
        return LOST
    if status in (401, 403) or "Not logged in" in words:
        return TurnError("claude-auth", f"claude is not signed in: {words}", _SIGN_IN)
    if status == 429 or limits.get("status") == "rejected":
        return TurnError("claude-rate-limited", f"rate-limited{_until(limits)}: {words}", f"wait; {_VERBS_WORK}")
    if status in (502, 504) or (result.get("terminal_reason") == "api_error" and status is None):
        words = words.partition(" This is a server-side issue")[0]  # the CLI's advice would name our own proxy
        hint = f"run breakglass doctor, which tries the model API; {_VERBS_WORK}"
        return TurnError("claude-unreachable", f"the model API can't be reached: {words}", hint)
    if isinstance(status, int) and status >= 500:
        return TurnError("claude-overloaded", f"the model API is overloaded (HTTP {status}): {words}", _AGAIN)
    return TurnError("claude-crashed", f"claude reported an error: {words or 'no reason given'}", _GO_ON)


def _until(limits: Table) -> str:
    try:
        minutes = int(float(limits["resetsAt"])) // 60
    except (KeyError, TypeError, ValueError, OverflowError):
        return ""
    return f" until {minutes // 60 % 24:02}:{minutes % 60:02} UTC" if 0 < minutes < _MOST_MINUTES else ""
