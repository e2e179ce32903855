"""The errors of /chat."""

from ..errors import BreakglassError


class SessionInvalid(BreakglassError):
    """The session token is not valid for this caller."""

    code, status = "session-invalid", 403


class SessionElsewhere(BreakglassError):
    """The session belongs to a handler with another sessions.dir."""

    code, status = "session-elsewhere", 409


class TurnUnknown(BreakglassError):
    """The caller has no such turn, or the turn was removed."""

    code, status = "turn-unknown", 404


class ChatDisabled(BreakglassError):
    """Chat is not configured, or can't be used."""

    code, status = "chat-disabled", 503


class LauncherLate(OSError):
    """The launcher did not answer in time. It may, once the machine is less busy."""


class ChatNotIsolated(BreakglassError):
    """claude can read the handler's files, and the configuration does not permit that."""

    code, status = "chat-not-isolated", 503


class SessionsUnwritable(BreakglassError):
    """The turn could not be saved, so it was not started."""

    code, status = "sessions-unwritable", 503
