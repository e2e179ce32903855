"""Everything that can be wrong with a request before it becomes a verb: one root, one sentence each.

Each class fixes its code and its HTTP status; an instance adds the message and the hint. `reached` says whether the
request got to the Proxmox host. What happens on the host is not an error but an outcome: see host.py.
"""

from typing import ClassVar


class BreakglassError(Exception):
    """The root: a request that never became a verb."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    reached: ClassVar[bool | None] = False

    def __init__(self, message: str, hint: str = "", **extra: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.extra = extra

    def as_json(self) -> dict[str, object]:
        """Return the body that PROTOCOL section 3 promises."""
        told = {"code": self.code, "message": self.message, "hint": self.hint, "reached": self.reached}
        return {"error": {**told, **self.extra}}


class Unauthorized(BreakglassError):
    """No known caller made this; which part was wrong is nobody's business."""

    code, status = "unauthorized", 401

    def __init__(self) -> None:
        super().__init__("the request is not signed by a known caller", "sign it: see README, signed requests")


class StaleTimestamp(BreakglassError):
    """A known caller signed this with a clock that is too far off."""

    code, status = "stale-timestamp", 401


class Forbidden(BreakglassError):
    """A known caller asked for what its entry does not allow."""

    code, status = "forbidden", 403


class BadRequest(BreakglassError):
    """The body is not what this route takes."""

    code, status = "bad-request", 400


class NotFound(BreakglassError):
    """There is no such address."""

    code, status = "not-found", 404


class MethodNotAllowed(BreakglassError):
    """The address exists, with another method."""

    code, status = "method-not-allowed", 405


class TooSlow(BreakglassError):
    """The request did not arrive within its time."""

    code, status = "too-slow", 408


class TooLarge(BreakglassError):
    """The body is longer than this route takes."""

    code, status = "too-large", 413


class IdReused(BreakglassError):
    """The id already named something else on the host."""

    code, status, reached = "id-reused", 422, True


class HostUnreached(BreakglassError):
    """Nothing was sent to the host; whoever sends again loses nothing."""

    code, status = "unreached", 503


class HostSilent(BreakglassError):
    """It was sent and not acknowledged; the id makes it safe to send it again."""

    code, status, reached = "unknown", 503, None


class SessionInvalid(BreakglassError):
    """The session token is not this caller's to use."""

    code, status = "session-invalid", 403


class TurnUnknown(BreakglassError):
    """This caller has no such turn: never, or not any more."""

    code, status = "turn-unknown", 404


class ChatOff(BreakglassError):
    """Chat is not configured, or its entry has a fault."""

    code, status = "chat-off", 503


class ChatNotIsolated(BreakglassError):
    """claude could reach what is the handler's, and nobody said aloud that it may."""

    code, status = "chat-not-isolated", 503


class SessionsUnwritable(BreakglassError):
    """A turn could not be kept where it belongs, so it was not begun."""

    code, status = "sessions-unwritable", 503
