"""The errors that answer a request: one base class, and one class for each code.

Each class fixes its code and its HTTP status; an instance adds the message and the hint. `reached` says whether the
request reached the Proxmox host; None means that it is not known. How a verb ended on the host is not an error but an
outcome (proxmox/outcome.py).
"""

from typing import ClassVar


class BreakglassError(Exception):
    """The base class of all errors. It is never raised itself."""

    code: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    reached: ClassVar[bool | None] = False
    why = ""  # for the log only: what was wrong with the authentication

    def __init__(self, message: str, hint: str = "", **extra: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.extra = extra

    def as_json(self) -> dict[str, object]:
        """Return the error object of docs/openapi.yaml."""
        fields = {"code": self.code, "message": self.message, "hint": self.hint, "reached": self.reached}
        return {"error": {**fields, **self.extra}}


class Unauthorized(BreakglassError):
    """Authentication failed. The answer deliberately does not say which check failed; only `why`, in the log, does."""

    code, status = "unauthorized", 401

    def __init__(self, *, why: str = "") -> None:
        super().__init__(
            "the request is not signed by a known caller", "sign it as described in breakglass docs requests"
        )
        self.why = why


class StaleTimestamp(BreakglassError):
    """The signature is good, but its timestamp is too old or too early."""

    code, status, why = "stale-timestamp", 401, "stale"


class Forbidden(BreakglassError):
    """The caller's entry does not allow the request."""

    code, status = "forbidden", 403


class WrongHandler(BreakglassError):
    """The caller signed the request for another handler. `url` belongs to this handler."""

    code, status = "wrong-handler", 403


class BadRequest(BreakglassError):
    """The route does not accept the body."""

    code, status = "bad-request", 400


class NotFound(BreakglassError):
    """The address does not exist."""

    code, status = "not-found", 404


class MethodNotAllowed(BreakglassError):
    """The address exists, but only for another method."""

    code, status = "method-not-allowed", 405


class TooSlow(BreakglassError):
    """The request did not arrive within the time limit."""

    code, status = "too-slow", 408


class TooLarge(BreakglassError):
    """The body is longer than the route accepts."""

    code, status = "too-large", 413


class IdReused(BreakglassError):
    """The id belongs to another chat turn. For a verb, a reused id is an outcome and not an error."""

    code, status = "id-reused", 422


class Unreached(BreakglassError):
    """This attempt sent nothing to the host.

    `cause` is the code in /health and in a verdict, such as `timeout`. `reason` is the message without "nothing was
    sent", for a request that an earlier attempt may have sent.
    """

    code, status = "unreached", 503

    def __init__(self, cause: str, reason: str, hint: str) -> None:
        super().__init__(f"{reason}; nothing was sent", hint)
        self.cause, self.reason = cause, reason


class Lost(BreakglassError):
    """The connection ended after the request was sent, so the host may have acted on it."""

    code, status, reached = "unknown", 503, None
