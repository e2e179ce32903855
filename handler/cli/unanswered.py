"""How a command ends if its handler gave no answer, or refused."""

from ..client import HandlerError, NoAnswer, Signer
from .output import FAILED, UNREACHED, complain


def report_unanswered(signer: Signer, error: HandlerError | NoAnswer, if_sent: str = "") -> int:
    """Print why a request has failed; return the exit code. `if_sent` says what to do if it may have arrived."""
    if isinstance(error, HandlerError):
        complain(str(error), error.hint)
    elif error.sent:
        complain(f"{signer.url}: {error}", if_sent or error.hint)
    else:
        complain(f"{signer.url}: {error}; nothing was sent", error.hint)
        return UNREACHED
    return FAILED
