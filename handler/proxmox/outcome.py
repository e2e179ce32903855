"""Builds the answer to a verb, from the host's trailer or from the connection's failure. Pure.

The outcomes are those of docs/api.md. The statuses 502, 504 and 52x are never used, because proxies replace their
bodies.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..agents.pve.words import AGENT_REFUSED, ANYWAY, GOES_WITH, REFUSED, STRANDED
from ..base.proven import read_proven
from ..config.model import by_hand
from .request import VerbRequest

Message = dict[str, object]

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
# `reached` describes this attempt only, not earlier attempts with the same id. None means that the request may have
# reached the host.
REACHED: Mapping[str, bool | None] = {"rejected": False, "unreached": False, "unknown": None}

_DAY = 86_400


@dataclass(frozen=True)
class Answer:
    """The answer object of docs/openapi.yaml, and its HTTP status."""

    body: Mapping[str, object]
    status: int

    @property
    def outcome(self) -> str:
        """The outcome's code."""
        return str(self.body["outcome"])

    @cached_property
    def encoded(self) -> bytes:
        """The body as JSON, encoded once, because requests can share an answer, and a picture takes 25 ms."""
        return json.dumps(dict(self.body), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def answer_from_trailer(
    request: VerbRequest, trailer: Mapping[str, object], stdout: str, stderr: str, warnings: Sequence[str] = ()
) -> Answer:
    """Return the answer to a verb that ended on the host; `warnings` are about the host itself."""
    body = _fields_of(request) | {
        "exit_code": trailer["exit_code"],
        "stdout": stdout,
        "stderr": stderr,
        "verdict": _verdict(trailer),
        "warnings": [*request.warnings, *warnings, *_texts(trailer.get("warnings"))],
    }
    for name in ("state", "last", "stage", "seconds", "screen", "attached", "started", "chain", "heartbeat", "seen"):
        body[name] = trailer.get(name, body[name])
    body |= {"holder": trailer.get("holder"), "proxmox_name": trailer.get("proxmox_name")}
    body["proven"] = read_proven(trailer.get("proven"))
    body["deadline"] = _deadline(request, trailer)
    body["anyway"] = _anyway(request, trailer)
    if request.verb == "screen":
        body |= {name: trailer.get(name) for name in ("screen_png", "guest", "screen_text")}
    if trailer["exit_code"] == STRANDED:
        body["by_hand"] = list(by_hand(request.vm, request.host, "start"))
    return _with_outcome(body, str(trailer["outcome"]))


def answer_without_trailer(
    request: VerbRequest,
    outcome: str,
    code: str,
    sentence: str,
    *evidence: str,
    stdout: str = "",
    stage: Mapping[str, object] | None = None,
) -> Answer:
    """Return the answer to a verb whose result is not known: `unreached`, `unknown` or `running`.

    `stage` is the job's newest stage message, if any.
    """
    body = _fields_of(request) | {"verdict": _own_verdict(code, sentence, *evidence), "stdout": stdout}
    body["stderr"] = "" if outcome == "running" else f"{sentence}\n"
    if stage is not None:
        body |= {name: stage[name] for name in ("stage", "deadline", "started")}
    return _with_outcome(body, outcome)


def rejected_answer(verb: str, vm: str, msg_id: str, caller: str, code: str, sentence: str, hint: str) -> Answer:
    """Return the answer to a request whose verb or VM does not exist."""
    body = _fields(verb, vm, msg_id, caller) | {"verdict": _own_verdict(code, sentence, hint), "rejected": True}
    return _with_outcome(body | {"stderr": f"{sentence}\n"}, "rejected")


def _fields_of(request: VerbRequest) -> dict[str, object]:
    fields = _fields(request.verb, request.vm.name, request.id, request.caller.name)
    return fields | {"by_hand": list(request.by_hand), "warnings": request.warnings}


def _fields(verb: str, vm: str, msg_id: str, caller: str) -> dict[str, object]:
    """Return every field of an answer with its default value."""
    known = {"verb": verb, "vm": vm, "id": msg_id, "by": caller, "outcome": "unknown", "state": "unknown"}
    flags = dict.fromkeys(("rejected", "attached", "screen"), False)
    empty = dict.fromkeys(("stage", "stdout", "stderr"), "")
    times = {"started": None, "seconds": 0.0, "deadline": None, "heartbeat": None}
    unsaid = dict.fromkeys(("reached", "exit_code", "last", "verdict", "holder", "anyway", "chain", "proven", "seen"))
    return {**known, **flags, **times, **empty, **unsaid, "proxmox_name": None, "by_hand": [], "warnings": []}


def _with_outcome(body: dict[str, object], outcome: str) -> Answer:
    body |= {"outcome": outcome, "reached": REACHED.get(outcome, True)}
    return Answer(body, HTTP_STATUS[outcome])


def _own_verdict(code: str, sentence: str, *evidence: str) -> dict[str, object]:
    return {"code": code, "sentence": sentence, "advice": "", "evidence": list(evidence)}


def _verdict(trailer: Mapping[str, object]) -> object:
    """Return the host's verdict. If the host does not know a word of the handler, its agent is outdated."""
    if trailer["exit_code"] != AGENT_REFUSED:
        return trailer.get("verdict")
    return _own_verdict(
        "agent-refused",
        "the host agent is too old for this verb; upgrade it",
        "run breakglass host upgrade --all, or install the new package on the host",
    )


def is_deadline(value: object) -> bool:
    """Return whether a value is a job's deadline in seconds from its start, at most one day."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _DAY


def _deadline(request: VerbRequest, trailer: Mapping[str, object]) -> object:
    """Return a job's deadline, or None if the verb is not a job or the host sent no deadline."""
    deadline = trailer.get("deadline")
    return deadline if request.rules.is_job and is_deadline(deadline) else None


def _anyway(request: VerbRequest, trailer: Mapping[str, object]) -> object:
    """Return the code of a refusal that both the host and a request allow to override, or None."""
    code = trailer.get("anyway")
    is_offer = isinstance(code, str) and code in ANYWAY and trailer["exit_code"] == REFUSED
    return code if is_offer and request.verb in GOES_WITH[str(code)] else None


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
