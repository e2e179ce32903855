"""The clock challenge lets in a client with a wrong clock, and makes nothing else easier."""

import time
from typing import Any

import pytest

from breakglass.auth.challenge import check_time
from breakglass.auth.signing import Caller, Signed, secret_bytes
from breakglass.base.errors import StaleTimestamp
from breakglass.client import Signer, VerbCall, call, new_id

from ..support.rows import each_row
from ..support.service import Service

pytestmark = pytest.mark.shared("world", "sshd", "service")
NOW = 1_795_500_000
ID = "msg_0123456789"
OPERATOR, OTHER = (Caller(name, (b"x" * 32,), frozenset({"status"})) for name in ("operator", "other"))
THREE_DAYS = 3 * 86_400
SECRETS = ("oldest-" * 5, "newest-" * 5)


def stale(caller: Caller = OPERATOR, msg_id: str = ID, at: int = NOW - THREE_DAYS) -> Signed:
    return Signed(caller, msg_id, at)


def challenge(signed: Signed, now: int = NOW, secrets: tuple[str, ...] = SECRETS) -> str:
    """Return the challenge in the answer to a stale request."""
    with pytest.raises(StaleTimestamp) as raised:
        check_time(signed, "", now, secrets)
    assert raised.value.extra["server_time"] == now
    return str(raised.value.extra["challenge"])


@each_row("at", [NOW - THREE_DAYS, NOW + THREE_DAYS])
@each_row("age", [0, 60])
def test_a_challenge_is_judged_instead_of_the_timestamp(at: int, age: int) -> None:
    """The challenge is valid for 60 s of the handler's own time, however wrong the sender's clock is."""
    check_time(stale(at=at), challenge(stale(at=at)), NOW + age, SECRETS)


@each_row("age", [61, THREE_DAYS, -1])
def test_a_challenge_is_spent_after_its_time(age: int) -> None:
    """It is invalid after 60 s, and before it was issued. The refusal has a new one."""
    old = challenge(stale())
    with pytest.raises(StaleTimestamp) as raised:
        check_time(stale(at=NOW + age - THREE_DAYS), old, NOW + age, SECRETS)
    check_time(stale(), str(raised.value.extra["challenge"]), NOW + age, SECRETS)


SPOILED: tuple[Any, ...] = (lambda c: c[:-2] + "AA", lambda c: f"{NOW + 30}{c[10:]}", lambda c: f"{c}\n", str.upper)
OTHERS = (stale(caller=OTHER), stale(msg_id="msg_another_one"))


@each_row(("signed", "spoil"), [*((signed, str) for signed in OTHERS), *((stale(), spoil) for spoil in SPOILED)])
def test_a_challenge_serves_one_id_of_one_caller(signed: Signed, spoil: Any) -> None:
    """It is invalid for another caller and for another id. Another time, another MAC or another spelling is refused."""
    with pytest.raises(StaleTimestamp):
        check_time(signed, spoil(challenge(stale())), NOW + 30, SECRETS)


def test_a_challenge_outlives_a_rotation() -> None:
    """The newest secret issues it, but any listed one is accepted, so replicas need not change at the same time."""
    ours = challenge(stale(), secrets=SECRETS)
    check_time(stale(), ours, NOW, (*SECRETS, "later-" * 6))
    check_time(stale(), ours, NOW, SECRETS[1:])
    with pytest.raises(StaleTimestamp):
        check_time(stale(), ours, NOW, SECRETS[:1])


# --- over HTTP ---


@pytest.mark.real("sshd", "qemu")
def test_call_works_with_a_wrong_clock(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """`breakglass call` signs with its own clock, three days ahead here, and answers the challenge by itself."""
    ahead = time.time() + THREE_DAYS
    signer = Signer(f"http://127.0.0.1:{service.port}", secret_bytes(service.secrets["operator"]))
    monkeypatch.setattr(time, "time", lambda: ahead)
    result = call(signer, new_id(), VerbCall("status"), lambda line: None)
    assert (result["outcome"], result["state"]) == ("done", "running")
