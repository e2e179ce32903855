"""Signed requests: Standard Webhooks v1 strictly, with the library that its authors publish as the oracle."""

import base64
import hashlib
import hmac
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

import breakglass
from breakglass.auth.signing import Caller, Headers, Signed, check_age, secret_bytes, sign, verify
from breakglass.base.errors import StaleTimestamp, Unauthorized

from ..support.rows import each_row, read_rows

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEY = secret_bytes(SECRET)
ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
TIME = 1614265330
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="

OTHER_KEY = b"another key of thirty-two bytes."
OPERATOR = Caller("operator", (KEY,), frozenset({"status"}))
PHONE = Caller("phone", (OTHER_KEY,), frozenset({"status"}))

ids = st.from_regex(r"[A-Za-z0-9_-]{8,64}", fullmatch=True)
times = st.integers(10**9, 10**10 - 1)


def headers(msg_id: str = ID, timestamp: object = TIME, signature: str = SIGNATURE) -> dict[str, str]:
    return {"webhook-id": msg_id, "webhook-timestamp": str(timestamp), "webhook-signature": signature}


def spelled(msg_id: str, timestamp: str, body: bytes) -> str:
    """Sign these exact headers, so that only their form can make the signature invalid."""
    digest = hmac.new(KEY, f"{msg_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


# --- the standard ---


def test_a_good_signature_is_accepted() -> None:
    """The vector that the standard's libraries publish, the longest and shortest id, and a body that is no text.

    Of at most five entries, one is good.
    """
    assert sign(KEY, ID, TIME, BODY) == SIGNATURE
    assert verify([OPERATOR], headers(), BODY) == Signed(OPERATOR, ID, TIME)
    for msg_id, body in (("a" * 8, b""), ("Z" * 64, b"\xff\xfe"), ("-_-_-_-_", BODY)):
        assert verify([OPERATOR], headers(msg_id, TIME, sign(KEY, msg_id, TIME, body)), body).id == msg_id
    for place in range(5):
        entries = [sign(OTHER_KEY, ID, TIME, BODY)] * 5
        entries[place] = SIGNATURE
        assert verify([OPERATOR], headers(signature=" ".join(entries)), BODY).caller is OPERATOR


@given(ids, times, st.text())
def test_what_the_standard_library_signs_is_accepted(msg_id: str, timestamp: int, text: str) -> None:
    """Whatever the standard's own library signs is accepted here."""
    signature = Webhook(SECRET).sign(msg_id, datetime.fromtimestamp(timestamp, UTC), text)
    assert verify([OPERATOR], headers(msg_id, timestamp, signature), text.encode()).timestamp == timestamp


# --- what is refused ---

TEXTS = read_rows("hostile_texts.yaml", signature=SIGNATURE, id=ID, time=str(TIME), secret=SECRET)


REFUSED: list[tuple[Headers, bytes]] = [
    *((headers(signature=text), BODY) for text in TEXTS["signatures"].values()),
    *((headers(timestamp=text, signature=spelled(ID, text, BODY)), BODY) for text in TEXTS["timestamps"].values()),
    *((headers(text, TIME, spelled(text, str(TIME), BODY)), BODY) for text in TEXTS["ids"].values()),
    # a dot can't shift the body into the id
    (headers(f"msg_12345678.{TIME}", TIME, sign(KEY, "msg_12345678", TIME, f"{TIME}.evil".encode())), b"evil"),
    *((headers(), body) for body in (BODY + b" ", b"", b"\xff\xfe")),
    *((changed, BODY) for changed in (headers(ID.lower()), headers(timestamp=TIME + 1))),
    (headers(signature="v1,h" + SIGNATURE[4:]), BODY),
    *(({name: text for name, text in headers().items() if name != left}, BODY) for left in headers()),
]


@each_row(("sent", "body"), REFUSED)
def test_nothing_that_was_signed_can_be_changed(sent: Headers, body: bytes) -> None:
    """A signature for one id, time and body is refused on another, and so is a malformed header with a good entry.

    An id of another shape, and a timestamp in any other spelling, are refused though the signature over them is good.
    """
    with pytest.raises(Unauthorized):
        verify([OPERATOR], sent, body)


anything = st.text(st.characters(exclude_categories=())) | st.sampled_from(
    [ID, str(TIME), SIGNATURE, f"{SIGNATURE} {SIGNATURE}", "v1,"]
)
digests = st.binary(min_size=32, max_size=32).map(lambda digest: "v1," + base64.b64encode(digest).decode())


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(headers(), anything | digests)), st.just(BODY) | st.binary())
def test_any_headers_at_all_are_unauthorized_or_signed(found: dict[str, str], body: bytes) -> None:
    """For any headers, the result is Unauthorized, or Signed if the signature is really good."""
    try:
        signed = verify([OPERATOR, PHONE], found, body)
    except Unauthorized:
        return
    assert sign(signed.caller.keys[0], signed.id, signed.timestamp, body) in found["webhook-signature"].split(" ")


# --- callers and keys ---


def test_a_request_belongs_to_whose_key_signed_it() -> None:
    """A caller is known by each of its keys while they rotate, and by no key that it does not have."""
    rotating = Caller("operator", (KEY, b"a newer key of thirty-two bytes."), frozenset())
    for callers in ([rotating, PHONE], [PHONE, rotating]):
        for caller, key in ((rotating, KEY), (rotating, rotating.keys[1]), (PHONE, OTHER_KEY)):
            assert verify(callers, headers(signature=sign(key, ID, TIME, BODY)), BODY).caller is caller
    for others in ([], [Caller("keyless", (), frozenset())], [PHONE]):
        with pytest.raises(Unauthorized):
            verify(others, headers(), BODY)


def test_a_caller_is_shown_without_its_keys() -> None:
    """A caller or a signed request that gets into a log or a traceback shows a name and no key."""
    assert repr(OPERATOR) == "Caller(operator)"
    assert repr(KEY) not in repr(Signed(OPERATOR, ID, TIME))


# --- age ---


@each_row(("off", "sentence"), [(301, "301 s old"), (-301, "301 s in the future"), (10**9, "1000000000 s old")])
def test_a_timestamp_beyond_300_seconds_is_stale(off: int, sentence: str) -> None:
    """One second more, in either direction, is stale. The answer has the difference and the handler's time."""
    for good in (-300, 0, 300):
        check_age(Signed(OPERATOR, ID, TIME), TIME + good)
    with pytest.raises(StaleTimestamp, match=f"^the timestamp is {sentence}; the limit is 300 s$") as caught:
        check_age(Signed(OPERATOR, ID, TIME), TIME + off)
    assert caught.value.extra == {"server_time": TIME + off}


# --- secrets ---


@each_row(("secret", "why"), TEXTS["secrets"].values())
def test_a_bad_secret_is_refused_without_being_shown(secret: str, why: str) -> None:
    """A secret has 24 to 64 bytes in base64. Another one is refused with a reason that does not repeat it."""
    for size in (24, 64):
        assert secret_bytes("whsec_" + base64.b64encode(b"k" * size).decode()) == b"k" * size
    with pytest.raises(ValueError, match=re.escape(why)) as caught:
        secret_bytes(secret)
    assert secret[6:] not in str(caught.value) or not secret[6:]


def test_secrets_are_compared_in_one_place() -> None:
    """The constant-time comparison stands exactly once in the whole handler."""
    sources = [path.read_text(encoding="utf-8") for path in Path(breakglass.__file__).parent.rglob("*.py")]
    assert sum(source.count("compare_digest") for source in sources) == 1


@each_row(
    ("vms", "vm", "sentence"),
    [
        (None, "devvm", None),
        (frozenset({"devvm"}), "devvm", None),
        (frozenset({"devvm"}), None, None),
        (frozenset({"devvm"}), "other", "viewer may not touch other"),
        (frozenset(), "devvm", "viewer may not touch devvm"),
    ],
)
def test_a_caller_may_act_on_the_vms_of_its_entry(vms: frozenset[str] | None, vm: str | None, sentence: str) -> None:
    """None means every VM. An empty set means no VM, never every VM."""
    refusal = Caller("viewer", (b"",), frozenset({"status"}), vms).refusal("status", vm, 0.0)
    assert (refusal and refusal.message) == sentence


def test_a_key_ends_after_its_last_second() -> None:
    """Until then it may do what its entry allows, and nothing else."""
    end = datetime(2026, 12, 1, tzinfo=UTC)
    caller = Caller("viewer", (b"",), frozenset({"status"}), None, end)
    assert caller.refusal("status", None, end.timestamp()) is None
    assert "expired on 2026-12-01" in str(caller.refusal("status", None, end.timestamp() + 1))
    assert "may not" in str(caller.refusal("reset", None, end.timestamp()))
