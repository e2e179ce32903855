"""The table of outcomes, from the host's exit code to the HTTP status."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from breakglass.agents.pve import words
from breakglass.agents.pve.jobs.result import Result, Verdict
from breakglass.auth.signing import Caller
from breakglass.base.verbs import VERBS
from breakglass.config.model import Address, Host, Vm
from breakglass.proxmox.outcome import (
    HTTP_STATUS,
    REACHED,
    Answer,
    answer_from_trailer,
    answer_without_trailer,
    rejected_answer,
)
from breakglass.proxmox.request import VerbRequest
from breakglass.proxmox.wire import is_message

from ..support.contract import read_contract
from ..support.rows import each_row

BY_HAND, START = ("ssh root@192.0.2.10 qm reset 102",), ("ssh root@192.0.2.10 qm start 102",)
HOST = Host("pve1", Address("breakglass", "192.0.2.10"), "key", host_keys=("ssh-ed25519 AAAA",))
VM = Vm("devvm", 102, (HOST,), by_hand=BY_HAND + START)
NOW = datetime(2026, 11, 24, tzinfo=UTC)
OPERATOR = Caller("operator", (b"x" * 32,), frozenset({"reset"}), not_after=NOW + timedelta(days=3))
EXPIRES = "the key of operator expires on 2026-11-27; write a later callers.operator.not_after"
REQUEST = VerbRequest("reset", VM, "msg_12345678", OPERATOR, NOW.timestamp())

# PROTOCOL section 3: outcome, HTTP status, reached.
TABLE = {
    "done": (200, True),
    "rejected": (400, False),
    "running": (202, True),
    "busy": (409, True),
    "refused": (412, True),
    "failed": (500, True),
    "unreached": (503, False),
    "unknown": (503, None),
    "id-reused": (422, True),
}
# PROTOCOL section 4: the host agent's exit codes.
EXITS = {0: "done", 11: "busy", 12: "refused", 16: "refused", 17: "id-reused"}
EXITS |= dict.fromkeys((10, 13, 14, 15), "failed")
FIELDS = read_contract()["components"]["schemas"]["Answer"]["required"] + ["seen", "proxmox_name"]


def answered(exit_code: int, verb: str = "reset", **more: object) -> Answer:
    """Return the handler's answer for a host agent's verb that ends with this exit code."""
    verdict = Verdict("a-code", "a sentence", "reset", ("a line",))
    trailer = {"screen": True, "warnings": ["old"], "seconds": 3.2}
    result = Result(exit_code, "running", "msg_last0000", "verify", verdict)
    return answer_from_trailer(
        replace(REQUEST, verb=verb), json.loads(json.dumps({**result.as_json(), **trailer, **more})), "out\n", "err\n"
    )


# --- the tables ---


def test_the_tables_are_the_contracts() -> None:
    """Every outcome has the contract's status and `reached`, and every exit code the contract's outcome.

    None of the exit codes belongs to ssh or the shell.
    """
    assert {outcome: (status, REACHED.get(outcome, True)) for outcome, status in HTTP_STATUS.items()} == TABLE
    assert words.OUTCOMES == EXITS
    assert max(words.OUTCOMES) < 126


# --- verbs that the host ended ---


@each_row("exit_code", EXITS)
def test_what_the_host_said_is_passed_on(exit_code: int) -> None:
    """The host's result becomes the answer with the outcome's status and the whole output."""
    answer = answered(exit_code)
    status, reached = TABLE[EXITS[exit_code]]
    assert (answer.outcome, answer.status, answer.body["reached"]) == (EXITS[exit_code], status, reached)
    assert (answer.body["exit_code"], answer.body["rejected"]) == (exit_code, False)
    assert (answer.body["stdout"], answer.body["stderr"]) == ("out\n", "err\n")
    assert (answer.body["state"], answer.body["last"], answer.body["stage"]) == ("running", "msg_last0000", "verify")
    assert (answer.body["seconds"], answer.body["screen"]) == (3.2, True)
    assert answer.body["warnings"] == [EXPIRES, "old"]
    assert answer.body["by_hand"] == list(START if exit_code == 15 else BY_HAND)  # never the stop that was done
    if exit_code != 10:
        verdict = {"code": "a-code", "sentence": "a sentence", "advice": "reset", "evidence": ["a line"]}
        assert answer.body["verdict"] == verdict | {"why": "", "fix": None}


NO_DEADLINES: tuple[object, ...] = (None, True, "420", 0, -1, 86_401, 10**400, float("nan"), float("inf"), [])
NO_OFFERS: tuple[object, ...] = (None, "", "locked", True, ["storage-hung"], {})
PASSED_ON: list[tuple[str, Any, object]] = [  # what the host said, and what the caller gets
    ("deadline", 420.5, 420.5),
    *(("deadline", value, None) for value in NO_DEADLINES),
    *(("anyway", value, None) for value in NO_OFFERS),
    ("chain", {"node": "pve1", "n": 3, "head": "a" * 64}, {"node": "pve1", "n": 3, "head": "a" * 64}),
    ("holder", {"verb": "cycle", "by": "phone"}, {"verb": "cycle", "by": "phone"}),
    *(("attached", True, True), ("started", "2026-11-24T03:12:44Z", "2026-11-24T03:12:44Z")),
]


@each_row(("field", "said", "got"), PASSED_ON)
def test_a_field_of_the_host_is_checked(field: str, said: Any, got: object) -> None:
    """A deadline is a number of seconds, at most a day. An `anyway` that no request can have is not offered."""
    assert answered(12, **{field: said}).body[field] == got
    assert answered(0, "status", deadline=420.5).body["deadline"] is None  # it is no job


def test_an_agent_that_refuses_our_word_is_older() -> None:
    """Exit 10 for a word that the handler knows means that the host agent is older, and says what to copy."""
    verdict = answered(10).body["verdict"]
    assert isinstance(verdict, dict)
    assert (verdict["code"], verdict["advice"], "too old" in verdict["sentence"]) == ("agent-refused", "", True)


@each_row(
    "changed",
    [{"type": "news"}, {"type": None}, {"outcome": "won"}, {"outcome": None}, {"exit_code": "0"}, {"exit_code": None}],
)
def test_what_is_no_result_is_no_message(changed: dict[str, object]) -> None:
    """A newer host agent may send more kinds of messages. Only a whole result ends a request."""
    result: dict[str, object] = {"type": "result", "outcome": "done", "exit_code": 0}
    assert (is_message(result), is_message(result | changed)) == (True, False)


def test_a_bare_trailer_is_enough() -> None:
    """Even if a trailer has only an outcome and an exit code, the answer has every field."""
    body = answer_from_trailer(REQUEST, {"outcome": "done", "exit_code": 0, "warnings": "no list"}, "", "").body
    assert (body["state"], body["last"], body["attached"], body["verdict"]) == ("unknown", None, False, None)
    assert body["warnings"] == [EXPIRES]
    assert (body["seconds"], body["rejected"], body["screen"], body["stage"]) == (0.0, False, False, "")


# --- deadlines and overrides ---


@each_row("exit_code", EXITS)
@each_row("verb", VERBS)
def test_only_a_refusal_of_reset_or_cycle_is_offered_to_be_lifted(verb: str, exit_code: int) -> None:
    """The offer is passed on if the host refused one of the two verbs that accept `anyway`. Otherwise, it is null."""
    offered = exit_code == 12 and verb in ("reset", "cycle")
    assert answered(exit_code, verb, anyway="storage-hung").body["anyway"] == ("storage-hung" if offered else None)
    start = answered(exit_code, verb, anyway="would-not-start").body["anyway"]
    assert start == ("would-not-start" if (exit_code, verb) == (12, "cycle") else None)


# --- verbs that the host did not end ---


@each_row("outcome", ["running", "unreached", "unknown"])
def test_without_a_trailer_the_handler_writes_the_verdict(outcome: str) -> None:
    """There is no exit code then. The sentence says why, and the evidence says what to do."""
    answer = answer_without_trailer(REQUEST, outcome, "a-code", "a sentence", "a hint", stdout="so far")
    status, reached = TABLE[outcome]
    assert (answer.outcome, answer.status, answer.body["reached"]) == (outcome, status, reached)
    assert answer.body["exit_code"] is None
    assert answer.body["rejected"] is False
    assert answer.body["verdict"] == {"code": "a-code", "sentence": "a sentence", "advice": "", "evidence": ["a hint"]}
    assert (answer.body["stage"], answer.body["deadline"], answer.body["started"]) == ("", None, None)
    stage = {"type": "stage", "stage": "stop", "deadline": 420.0, "started": "2026-11-24T03:12:44Z"}
    body = answer_without_trailer(REQUEST, outcome, "a-code", "a sentence", stage=stage).body
    assert (body["stage"], body["deadline"], body["started"]) == ("stop", 420.0, "2026-11-24T03:12:44Z")
    assert (answer.body["stdout"], answer.body["stderr"]) == ("so far", "" if outcome == "running" else "a sentence\n")


def test_a_rejected_request_names_what_was_sent() -> None:
    """The verb or the VM does not exist, so the answer repeats the request's words and has no command by hand."""
    answer = rejected_answer("restart", "devvm", "msg_12345678", "operator", "no-such-verb", "a sentence", "a hint")
    assert (answer.outcome, answer.status, answer.body["reached"]) == ("rejected", *TABLE["rejected"])
    assert set(answer.body) == set(FIELDS)
    request = {"verb": "restart", "vm": "devvm", "id": "msg_12345678", "by": "operator"}
    assert request.items() <= answer.body.items()
    assert (answer.body["rejected"], answer.body["by_hand"], answer.body["stderr"]) == (True, [], "a sentence\n")
    verdict = {"code": "no-such-verb", "sentence": "a sentence", "advice": "", "evidence": ["a hint"]}
    assert answer.body["verdict"] == verdict


# --- the object ---


@each_row("answer", [answered(0), answer_without_trailer(REQUEST, "unknown", "lost", "lost")])
def test_every_answer_is_the_same_object(answer: Answer) -> None:
    """Every answer has every field of the contract, and says who asked for what and how to do it by hand."""
    assert set(answer.body) == set(FIELDS)
    request = {"verb": "reset", "vm": "devvm", "id": "msg_12345678", "by": "operator"}
    assert request.items() <= answer.body.items()
    assert answer.body["by_hand"] == ["ssh root@192.0.2.10 qm reset 102"]
    assert json.loads(json.dumps(dict(answer.body))) == answer.body
