"""Who may send alerts and which entries they select: Grafana's signature, bearer tokens, and the configuration."""

from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breakglass.alerts.rules import Rule, check_pattern
from breakglass.auth.signing import (
    BEARER,
    GRAFANA,
    Caller,
    Signed,
    bearer_token,
    fingerprint,
    sign,
    verify,
    verify_bearer,
    verify_grafana,
)
from breakglass.base.errors import Unauthorized
from breakglass.config.load import parse
from breakglass.config.model import Config

from ..support.rows import each_row, read_rows
from ..support.service import SSH_KEY

# Made with: printf '1764000000:{"status": "firing", "alerts": []}' | openssl dgst -sha256 -hmac SECRET
SECRET = "a secret that is thirty-two chars"
BODY = b'{"status": "firing", "alerts": []}'
TIME = "1764000000"
SIGNATURE = "3081184fc27ea7c5b08c69c53f83be89b6bfa28c09580410373f02356a272505"
WITHOUT_A_TIME = "79d504f7b4fa3c8bceb6e4ca097b7cf9b2cf48d6968f41798a2e1a68fa39c908"
GRAFANA_CALLER = Caller("grafana", (SECRET.encode(),), frozenset({"forensics"}), auth_method=GRAFANA)

TOKEN = "bgt_" + "t" * 43
ALERTMANAGER = Caller("alertmanager", (TOKEN.encode(),), frozenset({"forensics"}), auth_method=BEARER)


def headers(signature: str = SIGNATURE, timestamp: str | None = TIME) -> dict[str, str]:
    time = {} if timestamp is None else {"x-grafana-alerting-timestamp": timestamp}
    return {"x-grafana-alerting-signature": signature, **time}


# --- Grafana ---


def test_a_signature_made_by_grafana_is_accepted() -> None:
    """Grafana's own signature over the time and the body is accepted. It has no id."""
    assert verify_grafana([ALERTMANAGER, GRAFANA_CALLER], headers(), BODY) == Signed(GRAFANA_CALLER, "", int(TIME))


@each_row(
    ("signature", "timestamp"),
    [
        *((WITHOUT_A_TIME, time) for time in (None, "", TIME)),  # it could be replayed for ever
        (SIGNATURE.upper(), TIME),
        ("sha256=" + SIGNATURE, TIME),
        (SIGNATURE + "\n", TIME),
        (SIGNATURE[:-1], TIME),
        ("", TIME),
        (SIGNATURE, "1764000001"),
        (SIGNATURE, "01764000000"),
        (SIGNATURE, "1764000000.0"),
        (SIGNATURE, "1764000000\n1764000000"),
    ],
)
def test_another_spelling_of_grafanas_signature_is_refused(signature: str, timestamp: str | None) -> None:
    """The signature must be lowercase hex without a prefix, and the time, which is signed, must be spelled the same."""
    with pytest.raises(Unauthorized):
        verify_grafana([GRAFANA_CALLER], headers(signature, timestamp), BODY)


def test_each_auth_method_has_its_own_keys() -> None:
    """A key works only for its own auth method, so a token can't sign, and Grafana's secret is not a token."""
    with pytest.raises(Unauthorized):
        verify_bearer([GRAFANA_CALLER, Caller("op", (TOKEN.encode(),), frozenset())], TOKEN)
    signed = {"webhook-id": "msg_12345678", "webhook-timestamp": TIME}
    signed["webhook-signature"] = sign(TOKEN.encode(), "msg_12345678", int(TIME), BODY)
    with pytest.raises(Unauthorized):
        verify([ALERTMANAGER], signed, BODY)
    with pytest.raises(Unauthorized):
        verify_grafana([Caller("op", (SECRET.encode(),), frozenset())], headers(), BODY)


# --- bearer tokens ---


@each_row("value", [f"Bearer {TOKEN}", f"bearer  {TOKEN}"])
def test_a_bearer_token_identifies_its_caller(value: str) -> None:
    """A token identifies its caller, with any case of the word Bearer (RFC 9110, 11.1)."""
    token = bearer_token({"authorization": value})
    assert token == TOKEN
    assert verify_bearer([GRAFANA_CALLER, ALERTMANAGER], token) == (ALERTMANAGER, fingerprint(TOKEN.encode()))


@given(st.text(max_size=60))
def test_any_other_token_is_refused(text: str) -> None:
    """A text that differs from the token is refused, even one that begins like it."""
    for token in (text, TOKEN[:-1], TOKEN + text + "x", "bgt_" + text):
        with pytest.raises(Unauthorized):
            verify_bearer([ALERTMANAGER], token)


# --- the configuration ---

KEY = "whsec_" + "b29v" * 11
GOOD = read_rows("settings.yaml", ssh_key=SSH_KEY, secret=SECRET, token=TOKEN, signing=KEY)["senders"]


def read(text: str) -> Config:
    return parse(text, lambda name: f"bgt_{'f' * 43}\n")


ROWS = read_rows("wrong_settings.yaml", secret=SECRET, token=TOKEN)


ENTRY = 'source = "grafana"\nmatch = { vm = "devvm" }\nvm = "devvm"\nfresh_seconds = 60\n'


@each_row(("old", "new", "path"), ROWS["senders"])
def test_a_fault_in_a_sender_disables_that_one_alone(old: str, new: str, path: str) -> None:
    """The report repeats no secret."""
    assert old in GOOD
    config = read(GOOD.replace(old, new))
    assert [problem.place for problem in config.problems] == [path]
    assert len(config.callers) == 2
    assert path.split(".")[1] not in [caller.name for caller in config.callers]
    assert "x" * 60 not in str(config.problems[0])


@each_row(("old", "new", "path"), ROWS["alerts"])
def test_a_fault_in_an_entry_disables_that_one_alone(old: str, new: str, path: str) -> None:
    """It is reported by the entry's number and key. One problem says that the entry's VM is disabled."""
    assert old in ENTRY
    other = '[vms.other]\nhosts = ["gone"]\nvmid = 103\n'
    config = read(GOOD.replace(ENTRY, ENTRY.replace(old, new, 1)) + other)
    found = [problem.place for problem in config.problems if not problem.place.startswith("vms.other")]
    assert path in found
    assert all(place.startswith("alerts[1]") for place in found)
    assert [rule.source for rule in config.alerts] == ["alertmanager"]
    assert (len(config.callers), len(config.vms)) == (3, 1)


# --- patterns ---


def test_a_pattern_matches_the_whole_label() -> None:
    """A pattern must match the whole label. A text without the tilde must be equal to the label."""
    config = read(GOOD.replace('match = { vm = "devvm" }', "match = { vm = '~dev(vm|box)' }"))
    assert [config.alerts[1].matches({"vm": name}) for name in ("devvm", "devbox")] == [True, True]
    assert [config.alerts[1].matches({"vm": name}) for name in ("devvm2", "a devvm", "devvm\n")] == [False] * 3
    assert not read(GOOD.replace('{ vm = "devvm" }', '{ vm = "dev.m" }')).alerts[1].matches({"vm": "devvm"})
    assert [rule.opinion_usd for rule in config.alerts] == [0, 0]
    assert read(f"{GOOD}diagnose = true\n").alerts[1].opinion_usd == 1
    assert read(f"{GOOD}diagnose = true\ndiagnose_usd = 9\n").alerts[1].opinion_usd == 9


def test_a_long_label_matches_no_pattern() -> None:
    """No pattern is tried on a label of more than 200 characters, but a plain text can still be equal."""
    config = read(GOOD.replace('match = { vm = "devvm" }', "match = { vm = '~.*a.*a' }"))
    assert config.alerts[1].matches({"vm": "a" * 200})
    assert not config.alerts[1].matches({"vm": "a" * 201})
    assert Rule("grafana", {"vm": "a" * 300}, "devvm").matches({"vm": "a" * 300})


@each_row(
    ("pattern", "message"),
    [
        *read_rows("patterns.yaml")["patterns"],
        (".*.*" + r"\b" * 10_000, "too long to match a hostile label"),
        (".*.*(?:" + "|".join(rf"[^\W{n}]{{66}}{n}" for n in range(10)) + ")", "too long to match a hostile label"),
    ],
)  # fmt: skip
def test_a_pattern_is_simple_and_fast(pattern: str, message: str) -> None:
    """One that could take very long on a hostile label is refused, and so is one whose time is not known."""
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        check_pattern(pattern)
