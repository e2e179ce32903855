"""When a host was last proven: what the handler believes of a host agent's word, and who may have it recorded."""

import dataclasses
from typing import Any

import pytest

from breakglass.auth.signing import BEARER, Caller, Signed
from breakglass.config.model import Address, Host, Vm
from breakglass.errors import BadRequest
from breakglass.proven import describe_openly, newer_proven, read_proven
from breakglass.proxmox.handshake import read_handshake
from breakglass.web.proving import check_proves

TOLD = {"at": "2026-11-27T03:12:09Z", "by": "doc@home", "how": "doctor", "vm": 102}
PROVEN = {"at": "2026-11-27T03:12:09Z", "by": "doc@home", "how": "doctor"}
CANARY = Vm("canary", 102, (Host("pve1", Address("breakglass", "192.0.2.10"), ""),), drill=True)
OPERATOR = Caller("operator", (b"x" * 32,), frozenset({"cycle", "status"}))
BOT = dataclasses.replace(OPERATOR, auth_method=BEARER)


def test_a_host_agents_word_is_read() -> None:
    """The handler tells it on without the VM's number, and openly without the name."""
    assert read_proven(TOLD) == PROVEN
    assert read_handshake({"proven": TOLD}).proven == PROVEN
    assert describe_openly(PROVEN) == {"at": "2026-11-27T03:12:09Z", "how": "doctor"}
    assert (read_handshake({}).proven, describe_openly(None)) == (None, None)


@pytest.mark.parametrize(
    "told",
    [
        *(None, "", "2026-11-27T03:12:09Z", 1, [], [TOLD], {}),
        *({name: value for name, value in PROVEN.items() if name != left_out} for left_out in PROVEN),
        *(
            TOLD | {"at": at}
            for at in (None, 0, "yesterday", "2026-11-27", "2026-11-27T03:12:09Z\n", "٢026-11-27T03:12:09Z")
        ),
        *(TOLD | {"by": by} for by in (None, "", "a b", "<b>", "x" * 65)),
        *(TOLD | {"how": how} for how in (None, "", "drills", ["drill"])),
    ],
    ids=ascii,
)
def test_what_is_malformed_counts_as_never(told: object) -> None:
    """Nothing else of a host's reaches a page or a metric."""
    assert read_proven(told) is None
    assert newer_proven(PROVEN, told) == PROVEN


def test_the_newest_counts() -> None:
    """The answer of a job that is attached to again has what was so when it ended."""
    older, newer = PROVEN | {"at": "2026-11-26T23:59:59Z"}, PROVEN | {"at": "2026-12-01T00:00:00Z", "how": "drill"}
    assert newer_proven(None, None) is None
    assert newer_proven(None, TOLD) == PROVEN
    assert newer_proven(PROVEN, older) == PROVEN
    assert newer_proven(PROVEN, newer) == newer


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a drill that is no cycle": ({"verb": "stop"}, '"proves":"drill" does not go with "stop"; nothing was sent'),
    "a doctor's cycle": ({"proves": "doctor"}, '"proves":"doctor" does not go with "cycle"; nothing was sent'),
    "another VM": (
        {"vm": dataclasses.replace(CANARY, name="devvm", drill=False)},
        "devvm is not a VM for drills; nothing was sent",
    ),
    "a bearer token": (
        {"signed": Signed(BOT, "msg_12345678", 0)},
        "a bearer token, or the approval of a proposal, can't use",
    ),
    "a proposal": ({"signed": Signed(OPERATOR, "job_12345678", 0)}, "a bearer token, or the approval of a proposal"),
}


def check(**changes: Any) -> None:
    sound: dict[str, Any] = {
        "proves": "drill",
        "verb": "cycle",
        "vm": CANARY,
        "signed": Signed(OPERATOR, "msg_12345678", 0),
    }
    check_proves(**sound | changes)


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_prove_a_host(name: str) -> None:
    """It is refused before anything is sent."""
    changes, message = REFUSED[name]
    with pytest.raises(BadRequest) as caught:
        check(**changes)
    assert caught.value.message.startswith(message)
    assert caught.value.message.endswith("nothing was sent")


def test_what_may_prove_a_host() -> None:
    """A drill on a VM for it, a doctor's status of any VM, and every request without the field."""
    check()
    check(proves="doctor", verb="status", vm=dataclasses.replace(CANARY, drill=False))
    bot = Signed(BOT, "job_12345678", 0)
    check(proves="", verb="stop", vm=dataclasses.replace(CANARY, drill=False), signed=bot)
