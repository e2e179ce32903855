"""GET /metrics: who may read it, its series about hosts and the handler, and that it delays no verb."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from breakglass.client import new_id

from ..support.rendered import families
from ..support.rendered import series as series_of
from ..support.service import ALL, Reply, Service, with_constants
from ..support.sshd import Sshd
from .conftest import handler

ROOT = Path(__file__).parent.parent.parent
TOKEN, STRANGE = "bgt_" + "m" * 43, "bgt_" + "x" * 43
TABLE = f'[metrics]\ntoken = "{TOKEN}"\n'
BEARER = {"authorization": f"Bearer {TOKEN}"}
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
SENDER = f'[callers.sender]\ntoken = "bgt_{"s" * 43}"\nallow = ["forensics"]\nnot_after = 2099-06-01T00:00:00Z\n'

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd")]

# No pause between two scrapes, and a longer time for an alert on a busy machine.
NO_PAUSES = with_constants("server.metrics.SHARE = 0", "web.alert.ACK_SECONDS = 60.0", "web.alert.PLAN_SECONDS = 60.0")


@pytest.fixture(scope="module")
def service(shared_sshd: Sshd, directory: Path) -> Iterator[Service]:
    """A handler with [metrics], whose host answers."""
    extra = f'{TABLE}{SENDER}\n[[alerts]]\nsource = "generic"\nmatch = {{ a = "b" }}\nvm = "devvm"\n'
    with handler(directory, shared_sshd, program=NO_PAUSES, extra=extra) as service:
        yield service


def scrape(service: Service, **headers: str) -> Reply:
    return service.send("GET", "/metrics", headers=BEARER | headers)


def series(service: Service) -> dict[str, float]:
    """Return every series, by its name and its labels."""
    reply = scrape(service)
    assert reply.status == 200
    return series_of(reply.body.decode())


# --- who may read it ---


def test_the_token_opens_the_metrics(service: Service) -> None:
    """GET and HEAD answer in Prometheus' text format, or in OpenMetrics. The answer is never stored.

    docs/monitoring.md sends a person to the answer itself for the list of series, so each says what it means.
    """
    reply, head = scrape(service), service.send("HEAD", "/metrics", headers=BEARER)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert reply.headers["cache-control"].startswith("no-store")
    assert (head.status, head.body, head.headers["content-type"]) == (200, b"", reply.headers["content-type"])
    found = families(reply.body.decode())
    assert [name for name, each in found.items() if name[:11] != "breakglass_" or each.documentation[-1] != "."] == []
    other = scrape(service, accept=f"{OPENMETRICS};q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
    assert other.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert list(parse_openmetrics(other.body.decode())) != []  # type: ignore[no-untyped-call]  # its types are not told


NO_TOKENS = ("", f"Bearer {STRANGE}", f"Bearer bgt_{'s' * 43}", f"Bearer {TOKEN}, Bearer {TOKEN}", "Basic eDp5")


def test_every_other_request_gets_the_uniform_401(service: Service) -> None:
    """The answer has the bytes and headers of a refused verb's. The refusal is counted.

    A signature does not open the metrics, and their token opens nothing else.
    """
    name = "requests_total{outcome=unauthorized,route=/metrics}"
    verb, before = service.send("POST", "/pve", b"{}"), series(service)[name]
    for headers in (*({"authorization": each} for each in NO_TOKENS), service.signed(b"")):
        reply = service.send("GET", "/metrics", headers=headers)
        assert (reply.status, reply.body) == (401, verb.body)
        assert {**reply.headers, "date": ""}.items() <= {**verb.headers, "date": ""}.items()
    assert series(service)[name] == before + len(NO_TOKENS) + 1
    for path in ("/pve", "/alert/generic", "/chat"):
        assert service.send("POST", path, b'{"verb":"status"}', BEARER).status == 401


def test_without_the_table_there_is_no_such_address(shared_service: Service) -> None:
    """Even with a token, the answer is that of an unknown address. One reload adds the metrics, another removes them.

    Each outcome of each verb has its series before it happens, so that rate() sees the first one.
    """
    for method in ("GET", "HEAD", "POST"):
        known, unknown = (shared_service.send(method, path, headers=BEARER) for path in ("/metrics", "/nothing"))
        assert (known.status, known.body) == (unknown.status, unknown.body)
        assert known.headers | {"date": ""} == unknown.headers | {"date": ""}
    with shared_service.configured(f"{shared_service.config.read_text()}\n{TABLE}"):
        found = series(shared_service)
    assert scrape(shared_service).status == 404
    assert {f"verbs_total{{outcome=unknown,verb={verb}}}" for verb in ALL} <= found.keys()


# --- what it says ---


def test_a_verb_and_its_stages_are_counted(service: Service) -> None:
    """It is counted by verb, route and outcome. Each stage has its seconds, fewer than the whole request.

    Sent again, it attaches to the job. The job's old messages come at once, so their times would be wrong.
    """
    before, began, msg_id = series(service), time.monotonic(), new_id()
    assert service.pve("reset", msg_id=msg_id).json["outcome"] == "done"
    seconds, after = time.monotonic() - began, series(service)
    counts = [f"verb_stage_seconds_count{{stage={stage},verb=reset}}" for stage in ("preflight", "forensics", "reset")]
    for name in ("requests_total{outcome=done,route=/pve}", "verbs_total{outcome=done,verb=reset}", *counts):
        assert after[name] == before[name] + 1
    sums = [name for name in after if name.startswith("verb_stage_seconds_sum") and "verb=reset" in name]
    assert 0 < sum(after[name] - before[name] for name in sums) < seconds
    assert service.pve("reset", msg_id=msg_id).json["attached"] is True
    again = series(service)
    assert again["verbs_total{outcome=done,verb=reset}"] == before["verbs_total{outcome=done,verb=reset}"] + 2
    assert [name for name in again if "stage" in name and again[name] != after[name]] == []


def test_a_name_that_a_request_brings_is_no_label(service: Service) -> None:
    """A verb, a VM or a path that does not exist is counted under a fixed label, so there are no new series."""
    assert service.pve("status").status == 200
    before = series(service)
    assert service.pve("explode", vm="a-vm-of-mine").json["outcome"] == "rejected"
    assert service.pve("status", vm="another-vm").json["outcome"] == "rejected"
    service.send("POST", "/alert/no-such-sender", b"{}")
    service.send("GET", "/metrics/../x-y-z")
    after = series(service)
    assert after.keys() == before.keys()
    name = "requests_total{outcome=rejected,route=/pve}"
    assert after[name] == before[name] + 2


def test_alerts_are_counted_by_their_source(service: Service) -> None:
    """Notifications are counted by outcome, and captures by their results."""
    body, token = b'{"status":"firing","labels":{"a":"b"},"fingerprint":"f1"}', f"Bearer bgt_{'s' * 43}"
    before = series(service)
    for _ in range(2):
        assert service.send("POST", "/alert/generic", body, {"authorization": token}).status == 202
    after = series(service)
    assert {name for name in after if "generic" in name and after[name] == before[name] + 1} == {
        *(f"alert_notifications_total{{outcome={each},source=generic}}" for each in ("accepted", "repeated")),
        *(f"alert_captures_total{{result={each},source=generic}}" for each in ("taken", "attached")),
    }
