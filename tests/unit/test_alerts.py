"""Each sender's payload is compared with the entries, which decide the captures. A payload can't name a VM."""

import asyncio
import hmac
import itertools
import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from breakglass.alerts.payloads import MOST_ALERTS, SENDERS, Alert, read_payload
from breakglass.alerts.rules import Plan, Rule, job_id, plan, why
from breakglass.auth.signing import ID
from breakglass.base.errors import BadRequest, Unreached
from breakglass.base.text import REASON_BYTES
from breakglass.web.alert import MOST_WAITING, make_plan, with_link
from breakglass.web.replies import error_reply

from ..support.any_json import any_values
from ..support.rows import each_row

DATA = Path(__file__).parent.parent / "data/alerts"
NOW = 1_795_402_300
SECRET = "s" * 32  # the secret of [sessions]
WANTED: Mapping[str, Mapping[str, str]] = {
    "alertmanager": {"alertname": "DevvmDown"},
    "grafana": {"alertname": "DevvmDown", "vm": "devvm"},
    "kuma": {"vm": "devvm", "monitor": "devvm ssh", "hostname": "192.0.2.20"},
    "gatus": {"group": "vms", "endpoint": "devvm", "url": "tcp://192.0.2.20:22"},
    "healthchecks": {"slug": "devvm-heartbeat", "name": "devvm heartbeat", "tags": "prod devvm"},
    "pve": {"type": "fencing", "hostname": "pve1", "severity": "error"},
    "generic": {"host": "devvm"},
}
RULES = tuple(Rule(source, match, "devvm") for source, match in WANTED.items())


def recorded(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def planned(source: str, payload: object, now: int = NOW, rules: tuple[Rule, ...] = RULES) -> Plan:
    return plan(source, read_payload(source, json.dumps(payload).encode()), rules, now, SECRET)


def jobs(source: str, payload: object, now: int = NOW) -> list[str]:
    return [capture.job for capture in planned(source, payload, now).captures.get("devvm", ())]


# --- the senders ---


@each_row("source", SENDERS)
def test_a_recorded_alert_makes_one_capture(source: str) -> None:
    """Each sender's own payload selects the entry for its VM by every label that it is documented to have.

    The id fits the host's grammar and is the same at every arrival. Only Gatus sends no start, so there the alerts
    within ten minutes are one outage. An alert with another start is another capture.
    """
    found = planned(source, recorded(source))
    assert (list(found.captures), len(found.captures["devvm"])) == (["devvm"], 1)
    assert found.ignored == (2 if source == "alertmanager" else 0)  # one is resolved, and one has no entry
    at = NOW // 600 * 600
    [job] = jobs(source, recorded(source), at)
    assert ID.fullmatch(job)
    assert jobs(source, recorded(source), at + 599) == [job]
    assert (jobs(source, recorded(source), at + 600) == [job]) is (source != "gatus")
    later = json.dumps(recorded(source)).replace("2026-11-24", "2026-12-24").replace("1795402213", "1797402213")
    assert source == "gatus" or jobs(source, json.loads(later), at) != [job]


NOT_FIRING: list[tuple[str, Any]] = [
    *((name.partition("_")[0], recorded(name)) for name in ("grafana_test", "kuma_test", "kuma_up")),
    *((name.partition("_")[0], recorded(name)) for name in ("healthchecks_test", "pve_test")),
    *(
        (source, recorded(source) | change)
        for source, change in (
            ("gatus", {"status": "RESOLVED"}),
            ("healthchecks", {"status": "up"}),
            ("generic", {"status": "resolved"}),
            ("generic", {"status": "FIRING"}),
            ("kuma", {"heartbeat": {"status": 2, "time": "x"}}),
            ("kuma", {"heartbeat": {"status": 3, "time": "x"}}),
        )
    ),
]


@each_row(("source", "payload"), NOT_FIRING)
def test_what_does_not_fire_captures_nothing(source: str, payload: object) -> None:
    """A test, an all-clear and an unknown status are only counted, even with an entry that matches everything."""
    everything = tuple(
        Rule(source, {label: re.compile(".*")}, "devvm")
        for label in ("alertname", "monitor", "name", "severity", "host")
    )
    assert planned(source, payload, rules=everything) == Plan({}, 1)


def test_a_hostile_label_is_cut_and_escaped() -> None:
    """The sender chooses it. An error shows its name, and the reason of a capture its value."""
    for name in ("\ud800", "x" * 100_000, "\n\x1b[2J"):
        with pytest.raises(BadRequest) as refusal:
            planned("generic", {"labels": {name: 1}})
        assert refusal.value.message.isprintable()
        assert len(error_reply(refusal.value).body) < 200
    reason = why("generic", Alert(True, {"a": "\ud800\n\x1b[2J\u202e", "b": "x" * 100_000}, {"c": "ä" * 100_000}))
    assert "a=\\ud800\\n\\x1b[2J\\u202e\nb=xxx" in reason
    assert 2000 < len(reason.encode()) <= REASON_BYTES


# --- one capture each ---


def test_the_time_zone_does_not_change_the_id() -> None:
    """Two Grafanas in two time zones mean the same instant. Go's zero time counts as no start."""
    payload = recorded("grafana")
    first = jobs("grafana", payload)
    payload["alerts"][0]["startsAt"] = "2026-11-24T02:50:10Z"
    assert jobs("grafana", payload) == first
    payload["alerts"][0]["startsAt"] = "0001-01-01T00:00:00Z"
    assert jobs("grafana", payload, NOW) != jobs("grafana", payload, NOW + 6000)


def test_only_the_session_secret_tells_the_id() -> None:
    """Replicas with the same secret make the same id. Without the secret, the id can't be computed from the alert.

    The sender counts too. Without a fingerprint, the labels in any order identify an alert.
    """
    labels: list[dict[str, str]] = [{"a": "1", "b": "2"}, {"b": "2", "a": "1"}, {"a": "1", "b": "3"}]
    one, same, other = (job_id("generic", Alert(True, each), 600, NOW, SECRET) for each in labels)
    assert one == same != other
    assert job_id("gatus", Alert(True, labels[0]), 600, NOW, SECRET) != one
    alert = Alert(True, {"a": "1"}, fingerprint="f", starts_at="2026-11-24T02:50:00Z")
    text = b'breakglass capture\n["generic", "f", "2026-11-24T02:50:00+00:00"]'
    expected = hmac.new(SECRET.encode(), text, "sha256").hexdigest()
    assert job_id("generic", alert, 600, NOW, SECRET) == f"alert-{expected[:40]}"
    assert job_id("generic", alert, 600, NOW, "t" * 32) != f"alert-{expected[:40]}"


def test_an_alert_that_matches_entries_of_two_vms_is_captured_on_both() -> None:
    """An alert about two VMs is captured on both. Of two entries for one VM, the first is used.

    The same alert twice in a payload is one capture; two alerts of one VM are two.
    """
    payload = recorded("alertmanager")
    alert = payload["alerts"][0]
    payload["alerts"] = [alert, alert, alert | {"fingerprint": "ffff"}]
    first, _ = planned("alertmanager", payload).captures["devvm"]
    assert first.why.startswith("alertmanager: firing since 2026-11-24T02:50:13.123456789Z\nalertname=DevvmDown\n")
    assert "\nsummary: devvm " in first.why
    match = {"host": "devvm"}
    rules = (Rule("generic", match, "a", 60), Rule("generic", match, "a", 900), Rule("generic", match, "b"))
    found = planned("generic", recorded("generic"), rules=rules).captures
    assert {vm: [capture.fresh_seconds for capture in captures] for vm, captures in found.items()} == {
        "a": [60],
        "b": [600],
    }


@each_row("source", ["alertmanager", "grafana"])
def test_alerts_after_the_thousandth_are_not_read(source: str) -> None:
    """They are only counted, because a mebibyte can have 340,000 of them. Even a malformed one is ignored."""
    found = planned(source, {"alerts": [{}] * MOST_ALERTS + [1]})
    assert (found.captures, found.ignored) == ({}, MOST_ALERTS + 1)


def test_the_first_entry_decides_among_texts_and_patterns() -> None:
    """Entries are found by a text or by patterns, but in both cases their order in the file decides."""
    labels = {"a": "1", "b": "2"}
    entries: list[dict[str, Any]] = [{"a": "1"}, {"b": "2", "a": re.compile("1")}, {"a": re.compile("[0-9]")}]
    for order in itertools.permutations(entries):
        rules = [Rule("generic", match, "devvm", fresh) for fresh, match in enumerate(order)]
        found = plan("generic", [Alert(True, labels)], rules, NOW, SECRET)
        assert [capture.fresh_seconds for capture in found.captures["devvm"]] == [0]


def test_alerts_that_are_not_compared_in_time_are_ignored() -> None:
    """The alerts that were compared before the deadline are captured."""
    rule = Rule("generic", {"a": re.compile(".*")}, "devvm")
    alerts = [Alert(True, {"a": str(number)}) for number in range(4)]
    times = iter([True, True, False, False])
    found = plan("generic", alerts, [rule], NOW, SECRET, lambda: next(times))
    assert (len(found.captures["devvm"]), found.ignored) == (2, 2)


class SlowPattern:
    """A pattern whose comparison takes as long as the test wants."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def fullmatch(self, label: str) -> bool | None:
        return self.go.wait(10) or None


def slow_rules() -> tuple[SlowPattern, list[Rule]]:
    slow: Any = SlowPattern()
    return slow, [Rule("generic", {"host": slow}, "devvm")]


NOTIFICATION = json.dumps({"status": "firing", "labels": {"host": "devvm"}}).encode()


async def test_a_sender_of_many_notifications_delays_no_other_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one notification of each sender is compared at a time, so the other sender's comes second."""
    monkeypatch.setattr("breakglass.web.alert.PLAN_SECONDS", 60.0)
    slow, rules = slow_rules()
    done: list[str] = []

    async def send(sender: str) -> None:
        await make_plan("generic", NOTIFICATION, rules, NOW, SECRET, sender)
        done.append(sender)

    sending = [asyncio.create_task(send(sender)) for sender in (*["noisy"] * 5, "other")]
    await asyncio.sleep(0)
    slow.go.set()
    await asyncio.gather(*sending)
    assert done == ["noisy", "other", *["noisy"] * 4]


async def test_too_many_notifications_of_a_sender_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler keeps only this many bodies. A refused notification is not compared."""
    monkeypatch.setattr("breakglass.web.alert.PLAN_SECONDS", 60.0)
    slow, rules = slow_rules()
    kept = [
        asyncio.create_task(make_plan("generic", NOTIFICATION, rules, NOW, SECRET, "noisy"))
        for _ in range(MOST_WAITING)
    ]
    await asyncio.sleep(0)
    with pytest.raises(Unreached, match="being compared"):
        await make_plan("generic", NOTIFICATION, rules, NOW, SECRET, "noisy")
    slow.go.set()
    await asyncio.gather(*kept)


# --- the reason of a capture ---


def test_a_refused_capture_has_no_job_to_link_to() -> None:
    """The page's address is the handler's first URL. A handler without a URL gives no link."""
    urls = ("https://a.example/bg/", "https://b.example/")
    taken = {"vm": "devvm", "job": "alert-0a", "duplicate": False, "suppressed": False}
    assert with_link(taken, urls) == {**taken, "page": "https://a.example/bg/#vm=devvm&job=alert-0a"}
    refused = {"vm": "devvm", "job": "alert-0a", "code": "disk-full"}
    assert with_link(refused, urls) == {**refused, "page": "https://a.example/bg/#vm=devvm"}
    assert with_link(taken, ()) == taken


# --- hostile payloads ---

_NAMES = ("alerts", "status", "labels", "heartbeat", "monitor", "fields", "tags", "vm", "verb", "command", "startsAt")
_JSON = any_values(_NAMES)
PAYLOADS: st.SearchStrategy[Any] = _JSON | st.builds(dict, alerts=_JSON, labels=_JSON, status=st.just("firing"))


@given(st.sampled_from(sorted(SENDERS)), PAYLOADS)
def test_no_payload_breaks_it_or_names_a_vm(source: str, payload: object) -> None:
    """Any JSON is either a bad request, or selects only configured VMs with ids that fit the host's grammar."""
    everything = tuple(Rule(source, {label: re.compile(".*")}, "devvm") for label in ("vm", "alertname", "type"))
    try:
        found = plan(source, read_payload(source, json.dumps(payload).encode()), everything, NOW, SECRET)
    except BadRequest:
        return
    assert set(found.captures) <= {"devvm"}
    assert all(ID.fullmatch(capture.job) for captures in found.captures.values() for capture in captures)


@given(st.sampled_from(sorted(SENDERS)), st.binary(max_size=200))
def test_any_bytes_are_refused_as_a_bad_request(source: str, body: bytes) -> None:
    try:
        read_payload(source, body)
    except BadRequest:
        return
    assert isinstance(json.loads(body), dict)
