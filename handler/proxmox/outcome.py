"""What became of a verb: the host's trailer, or the connection's failure, to the one answer that every caller gets.

Pure. The table of outcomes is PROTOCOL section 3; 502, 504 and 52x are never used because proxies replace their bodies.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..verbs import ANYWAY, VERBS

Message = dict[str, object]
NOTHING_SENT = "; nothing was sent"  # how the sentences of Unreached end, of this one sending


class Unreached(Exception):
    """Nothing was sent to the host. `code` tells which of the ways of not getting there it was."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


class Lost(Exception):
    """The connection ended after something was sent."""


HTTP_STATUS = {
    "done": 200,
    "rejected": 400,
    "running": 202,
    "busy": 409,
    "refused": 412,
    "failed": 500,
    "unreached": 503,
    "unknown": 503,
    "id-reused": 422,
}
# `reached` speaks of this sending only: None is "it may have happened".
REACHED: Mapping[str, bool | None] = {"rejected": False, "unreached": False, "unknown": None}

_AGENT_REFUSED = 10
_REFUSED = 12
_STRANDED = 15  # stopped, and not started again
_DAY = 86_400


@dataclass(frozen=True)
class Asked:
    """Who asked for what: the part of the answer that is known before anything is sent."""

    verb: str
    vm: str
    id: str
    by: str
    by_hand: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    start_by_hand: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """The answer object of PROTOCOL section 3 and its HTTP status."""

    body: Mapping[str, object]
    status: int = field(default=200)

    @property
    def outcome(self) -> str:
        return str(self.body["outcome"])


def answer_from_trailer(asked: Asked, trailer: Mapping[str, object], stdout: str, stderr: str) -> Answer:
    """Return the answer to a verb that the host ended, from its trailer."""
    body = _common(asked) | {
        "exit_code": trailer["exit_code"],
        "stdout": stdout,
        "stderr": stderr,
        "verdict": _verdict(trailer),
        "warnings": [*asked.warnings, *_texts(trailer.get("warnings"))],
    }
    for name in ("state", "last", "stage", "seconds", "screen", "attached", "started"):
        body[name] = trailer.get(name, body[name])
    body["holder"] = trailer.get("holder")
    body["deadline"] = _deadline(asked, trailer)
    body["anyway"] = _anyway(asked, trailer)
    if trailer["exit_code"] == _STRANDED:
        body["by_hand"] = list(asked.start_by_hand)
    return _with_outcome(body, str(trailer["outcome"]))


def answer_without_trailer(
    asked: Asked,
    outcome: str,
    code: str,
    sentence: str,
    *evidence: str,
    stdout: str = "",
    stage: Mapping[str, object] | None = None,
) -> Answer:
    """Return the answer where the host did not say how it ended: rejected, unreached, unknown or running. `stage` is
    the newest stage message of the job, where there was one."""
    verdict = {"code": code, "sentence": sentence, "advice": "", "evidence": list(evidence)}
    stderr = "" if outcome == "running" else f"{sentence}\n"
    body = _common(asked) | {"verdict": verdict, "stdout": stdout, "stderr": stderr, "rejected": outcome == "rejected"}
    if stage is not None:
        body |= {name: stage[name] for name in ("stage", "deadline", "started")}
    return _with_outcome(body, outcome)


def _common(asked: Asked) -> dict[str, object]:
    return {
        "verb": asked.verb,
        "vm": asked.vm,
        "id": asked.id,
        "exit_code": None,
        "stdout": "",
        "stderr": "",
        "rejected": False,
        "reached": None,
        "outcome": "unknown",
        "attached": False,
        "by": asked.by,
        "started": None,
        "deadline": None,
        "state": "unknown",
        "last": None,
        "holder": None,
        "verdict": None,
        "anyway": None,
        "stage": "",
        "seconds": 0.0,
        "screen": False,
        "by_hand": list(asked.by_hand),
        "warnings": list(asked.warnings),
    }


def _with_outcome(body: dict[str, object], outcome: str) -> Answer:
    body |= {"outcome": outcome, "reached": REACHED.get(outcome, True)}
    return Answer(body, HTTP_STATUS[outcome])


def _verdict(trailer: Mapping[str, object]) -> object:
    """Pass the host's verdict on; a host that does not know a word that we know is older than we are."""
    if trailer["exit_code"] != _AGENT_REFUSED:
        return trailer.get("verdict")
    return {
        "code": "agent-refused",
        "sentence": "the host agent is older than this handler; copy `breakglass host bundle`",
        "advice": "",
        "evidence": ["breakglass host bundle > breakglass-pve, and copy it to the Proxmox host"],
    }


def is_deadline(value: object) -> bool:
    """Tell whether a value is a job's deadline: seconds from its start, of one day at most."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _DAY


def _deadline(asked: Asked, trailer: Mapping[str, object]) -> object:
    """Return the deadline that the host told for a job; None for what is no job, or where the host told none."""
    deadline = trailer.get("deadline")
    return deadline if VERBS[asked.verb].is_job and is_deadline(deadline) else None


def _anyway(asked: Asked, trailer: Mapping[str, object]) -> object:
    """Return the code that a person may lift this refusal by, or None: offered is only what the host offers, and what
    a request can say."""
    code = trailer.get("anyway")
    override = ANYWAY.get(code) if isinstance(code, str) and trailer["exit_code"] == _REFUSED else None
    return code if override is not None and asked.verb in override.verbs else None


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
