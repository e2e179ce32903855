"""GET /metrics: who may read it, its series about hosts and the handler, and that it delays no verb."""

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from breakglass.client import new_id

from ..support import documents
from ..support.ports import reserve_port
from ..support.rendered import families
from ..support.rendered import series as series_of
from ..support.service import ALL, Reply, Service, with_constants
from ..support.sshd import Sshd, wait_listening
from ..support.stages import until
from .conftest import handler

ROOT = Path(__file__).parent.parent.parent
TOKEN, STRANGE = "bgt_" + "m" * 43, "bgt_" + "x" * 43
TABLE = f'[metrics]\ntoken = "{TOKEN}"\n'
BEARER = {"authorization": f"Bearer {TOKEN}"}
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
SENDER = f'[callers.sender]\ntoken = "bgt_{"s" * 43}"\nallow = ["forensics"]\nnot_after = 2099-06-01T00:00:00Z\n'

pytestmark = [pytest.mark.real("sshd"), pytest.mark.shared("world", "sshd")]

Series = dict[str, float]
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


def series(service: Service) -> Series:
    """Return every series, by its name and its labels."""
    reply = scrape(service)
    assert reply.status == 200
    return series_of(reply.body.decode())


# --- who may read it ---


def test_the_token_opens_the_metrics(service: Service) -> None:
    """GET and HEAD answer in Prometheus' text format, or in OpenMetrics. The answer is never stored.

    docs/monitoring.md sends a person to the answer itself for the list of series, so each says what it means.
    """
    assert service.pve("status").status == 200  # so that there is the time of a caller's newest request
    reply = scrape(service)
    assert (reply.status, reply.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert reply.headers["cache-control"].startswith("no-store")
    assert b'breakglass_host_up{host="pve1"} 1.0\n' in reply.body
    head = service.send("HEAD", "/metrics", headers=BEARER)
    assert (head.status, head.body, head.headers["content-type"]) == (200, b"", reply.headers["content-type"])
    found = families(reply.body.decode())
    assert [name for name in found if not name.startswith("breakglass_")] == []
    assert [name for name, family in found.items() if not family.documentation.endswith(".")] == []
    other = scrape(service, accept=f"{OPENMETRICS};q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
    assert other.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    parsed = parse_openmetrics(other.body.decode())  # type: ignore[no-untyped-call]  # its types are not told
    names = {sample.name for family in parsed for sample in family.samples}  # the parser requires `# EOF` too
    assert names == {sample.name for family in found.values() for sample in family.samples}


NO_TOKENS = {
    "nothing": {},
    "another token": {"authorization": f"Bearer {STRANGE}"},
    "a caller's token": {"authorization": f"Bearer bgt_{'s' * 43}"},
    "two tokens": {"authorization": f"Bearer {TOKEN}, Bearer {TOKEN}"},
    "a password": {"authorization": "Basic eDp5"},
}


def test_every_other_request_gets_the_uniform_401(service: Service) -> None:
    """The answer has the bytes and headers of a refused verb's. The refusal is counted.

    A signature does not open the metrics, and their token opens nothing else.
    """
    name = "requests_total{outcome=unauthorized,route=/metrics}"
    verb, before = service.send("POST", "/pve", b"{}"), series(service)[name]
    for headers in (*NO_TOKENS.values(), service.signed(b"")):
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
    plain = shared_service
    for method in ("GET", "HEAD", "POST"):
        known, unknown = (plain.send(method, path, headers=BEARER) for path in ("/metrics", "/nothing"))
        assert known.status == (405 if method == "POST" else 404)
        assert (known.status, known.body) == (unknown.status, unknown.body)
        assert known.headers | {"date": ""} == unknown.headers | {"date": ""}
    with plain.configured(f"{plain.config.read_text()}\n{TABLE}"):
        found = series(plain)
    assert scrape(plain).status == 404
    assert {f"verbs_total{{outcome=unknown,verb={verb}}}" for verb in ALL} <= found.keys()
    assert "turn_tokens_total{kind=output}" in found


# --- what it says ---


def test_a_host_that_goes_away_moves_its_series(service: Service, sshd: Sshd) -> None:
    """When the handler notices the loss or the return, the series change. A scrape never asks the host."""
    good = series(service)
    assert (good["host_up{host=pve1}"], good["vm_reachable{host=pve1,vm=devvm}"]) == (1, 1)
    assert "host_proven_timestamp_seconds{host=pve1}" in good
    sshd.stop()
    try:
        service.not_answering()
        down = series(service)
    finally:
        sshd.start()
    assert (down["host_up{host=pve1}"], down["vm_reachable{host=pve1,vm=devvm}"], down["ready"]) == (0, 0, 0)
    assert any(name in down for name in ("host_state{host=pve1,state=refused}", "host_state{host=pve1,state=lost}"))
    service.answering()
    assert series(service)["host_up{host=pve1}"] == 1


def test_a_verb_and_its_stages_are_counted(service: Service) -> None:
    """It is counted by verb, route and outcome. Each stage has its seconds, fewer than the whole request.

    Sent again, it attaches to the job. The job's old messages come at once, so their times would be wrong.
    """
    before, began, msg_id = series(service), time.monotonic(), new_id()
    assert service.pve("reset", msg_id=msg_id).json["outcome"] == "done"
    seconds, after = time.monotonic() - began, series(service)
    for name in ("requests_total{outcome=done,route=/pve}", "verbs_total{outcome=done,verb=reset}"):
        assert after[name] == before[name] + 1
    for stage in ("preflight", "forensics", "reset"):
        labels = f"{{stage={stage},verb=reset}}"
        assert after[f"verb_stage_seconds_count{labels}"] == before[f"verb_stage_seconds_count{labels}"] + 1
        assert after[f"verb_stage_seconds_sum{labels}"] > before[f"verb_stage_seconds_sum{labels}"]
    sums = [name for name in after if name.startswith("verb_stage_seconds_sum") and "verb=reset" in name]
    assert sum(after[name] - before[name] for name in sums) < seconds
    assert service.pve("reset", msg_id=msg_id).json["attached"] is True
    again = series(service)
    assert again["verbs_total{outcome=done,verb=reset}"] == after["verbs_total{outcome=done,verb=reset}"] + 1
    assert {name: again[name] for name in again if "stage" in name} == {
        name: after[name] for name in after if "stage" in name
    }
    assert after["caller_last_request_timestamp_seconds{caller=operator}"] > after["start_time_seconds"]


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
    assert (
        after["requests_total{outcome=rejected,route=/pve}"]
        == before["requests_total{outcome=rejected,route=/pve}"] + 2
    )
    assert not any(word in name for name in after for word in ("explode", "mine", "another", "no-such", "x-y-z"))


def test_alerts_are_counted_by_their_source(service: Service) -> None:
    """Notifications are counted by outcome, and captures by their results."""
    token = {"authorization": f"Bearer bgt_{'s' * 43}"}
    body = json.dumps(
        {"status": "firing", "labels": {"a": "b"}, "fingerprint": "f1", "starts_at": "2026-11-27T03:00:00Z"}
    )
    before = series(service)
    first, again = (service.send("POST", "/alert/generic", body.encode(), token).json for _ in range(2))
    assert (first["accepted"][0]["duplicate"], again["accepted"][0]["duplicate"]) == (False, True)
    after = series(service)
    for name in (
        *("alert_notifications_total{outcome=accepted,source=generic}",),
        *("alert_notifications_total{outcome=repeated,source=generic}",),
        *("alert_captures_total{result=taken,source=generic}", "alert_captures_total{result=attached,source=generic}"),
        *("requests_total{outcome=accepted,route=/alert}", "requests_total{outcome=repeated,route=/alert}"),
    ):
        assert after[name] == before[name] + 1, name


# --- Prometheus itself ---


@contextmanager
def prometheus(directory: Path, config: str) -> Iterator[int]:
    """Run Debian's Prometheus on loopback; yield its port."""
    port = reserve_port()
    (directory / "prometheus.yml").write_text(config)
    options = {
        "config.file": directory / "prometheus.yml",
        "storage.tsdb.path": directory / "data",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    argv = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
    with (directory / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
        try:
            wait_listening(port, process)
            yield port
        finally:
            process.terminate()


def ask(port: int, query: str) -> list[tuple[dict[str, str], str]]:
    """Return the labels and the value of each series of a query; none while Prometheus is starting."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query?query={query}", timeout=30) as reply:
            return [(each["metric"], each["value"][1]) for each in json.load(reply)["data"]["result"]]
    except urllib.error.HTTPError as error:
        if error.code != 503:
            raise
        return []


@pytest.mark.all
@pytest.mark.real("prometheus")
def test_prometheus_scrapes_as_the_document_says(service: Service, tmp_path: Path) -> None:
    """Prometheus uses the document's settings and rules, reads the token from the file, and gets all series."""
    [_, settings] = documents.settings("docs/monitoring.md", "Setting up Prometheus")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "breakglass-alerts.yml").write_text((ROOT / "deploy/prometheus/alerts.yml").read_text())
    for theirs, ours in (
        ("scheme: https", "scheme: http"),
        ("/etc/prometheus/breakglass.token", str(tmp_path / "token")),
        ("rescue.example.org:443", f"127.0.0.1:{service.port}"),
    ):
        assert settings.count(theirs) == 1
        settings = settings.replace(theirs, ours)
    # A scrape may take as long as the interval.
    with prometheus(tmp_path, f"global:\n  scrape_interval: 5s\n  evaluation_interval: 1s\n{settings}") as port:
        until(lambda: ask(port, "breakglass_host_up"), "the first scrape")
        [(labels, value)] = ask(port, "breakglass_host_up")
        assert (labels["job"], labels["host"], value) == ("breakglass", "pve1", "1")
        assert ask(port, "breakglass_verb_stage_seconds_bucket")
        assert [value for _, value in ask(port, "up")] == ["1"]
        names = {labels["__name__"] for labels, _ in ask(port, '{__name__=~"breakglass_.*"}')}
        lines = scrape(service).body.decode().splitlines()
        assert names == {re.split(r"[{ ]", line)[0] for line in lines if not line.startswith("#")}
