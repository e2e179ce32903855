"""The authenticated requests that are admitted, and the order of refusals."""

from dataclasses import replace
from typing import Any

import pytest

from breakglass.auth.signing import BEARER, Caller, Signed
from breakglass.base.errors import BadRequest, BreakglassError, Forbidden, StaleTimestamp, WrongHandler
from breakglass.base.verbs import VERBS
from breakglass.config.model import Address, Config, Host, Vm
from breakglass.web.admission import admit
from breakglass.web.bodies import VerbBody

from ..support.rows import each_row

NOW = 1_795_500_000
CANARY = Vm("canary", 102, (Host("pve1", Address("breakglass", "192.0.2.10"), ""),), drill=True)
DEVVM = replace(CANARY, name="devvm", drill=False)
OPERATOR = Caller("operator", (b"x" * 32,), frozenset(VERBS), frozenset({"canary", "devvm"}))
BOT = replace(OPERATOR, name="bot", auth_method=BEARER)
OTHER = replace(CANARY, name="other")
CONFIG = Config((), {}, {vm.name: vm for vm in (CANARY, DEVVM, OTHER)}, ("s" * 32,), urls=("https://a.example/",))


def ask(caller: Caller = OPERATOR, msg_id: str = "msg_12345678", at: int = NOW, **fields: Any) -> Vm | None:
    body = VerbBody(**{"verb": "cycle", "vm": "canary", **fields})
    return admit(CONFIG, Signed(caller, msg_id, at), body, NOW)


PROPOSED = {"msg_id": "job_12345678", "if_last": "none"}
REFUSED: list[tuple[dict[str, Any], type[BreakglassError], str]] = [
    ({"to": "https://b.example/", "msg_id": "alert-12345678"}, WrongHandler, "the request was signed for"),
    ({"msg_id": "alert-12345678", "at": NOW - 301}, BadRequest, 'ids that begin with "alert-"'),
    *(
        case
        for field, word in {"anyway": "storage-hung", "proves": "drill"}.items()
        for case in (
            ({field: word, "caller": BOT}, BadRequest, f'a request with a bearer token can\'t use "{field}"'),
            ({field: word, **PROPOSED}, BadRequest, f'the approval of a proposal can\'t use "{field}"'),
            ({field: word, **PROPOSED, "if_last": ""}, BadRequest, "the approval of a proposal can't use"),
        )
    ),
    ({"msg_id": "job_12345678", "at": NOW - 301}, BadRequest, 'the approval of a proposal needs "if_last"'),
    ({"at": NOW - 301, "vm": "other"}, StaleTimestamp, "the timestamp is 301 s old"),
    ({"caller": replace(BOT, allow=frozenset({"status"})), "verb": "screen"}, Forbidden, 'bot may not "forensics"'),
    ({"vm": "other"}, Forbidden, "operator may not touch other"),
    ({"caller": BOT, "verb": "screen"}, Forbidden, 'a request with a bearer token can\'t use "screen"'),
    ({"caller": BOT, "verb": "reset"}, Forbidden, 'a request with a bearer token can\'t use "reset"'),
    ({"vm": "devvm", "proves": "drill"}, BadRequest, "devvm is not a VM for drills; nothing was sent"),
]


@each_row(("asked", "error", "words"), REFUSED)
def test_what_is_refused(asked: dict[str, Any], error: type[BreakglassError], words: str) -> None:
    """Each rule has its error and its sentence. If two rules are broken, the earlier one answers."""
    with pytest.raises(error) as caught:
        ask(**asked)
    assert type(caught.value) is error
    assert caught.value.message.startswith(words)
    assert caught.value.hint


@each_row(
    ("asked", "vm"),
    [
        ({"to": "https://a.example", "proves": "drill"}, CANARY),
        ({"verb": "status", "vm": "devvm", "proves": "doctor"}, DEVVM),
        ({"anyway": "storage-hung", "vm": "devvm"}, DEVVM),
        (PROPOSED, CANARY),
        ({"caller": replace(OPERATOR, allow=frozenset({"forensics"})), "verb": "screen"}, CANARY),
        ({"caller": BOT, "verb": "forensics"}, CANARY),
        ({"verb": "restart"}, None),
        ({"vm": "no such VM"}, None),
    ],
)
def test_what_is_admitted(asked: dict[str, Any], vm: Vm | None) -> None:
    """The request gets its VM. A request with an unknown verb or VM gets none."""
    assert ask(**asked) == vm
