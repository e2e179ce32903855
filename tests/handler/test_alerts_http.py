"""POST /alert/{source}, from authentication to captures of the real VM, through a real OpenSSH server."""

import hashlib
import hmac
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ..support.alerting import (
    EXPIRED_TOKEN,
    GRAFANA_SECRET,
    OTHER_TOKEN,
    TOKEN,
    alerting,
    entry,
    list_captures,
    send_with_token,
)
from ..support.documents import commands
from ..support.forked import run_command
from ..support.service import SSH_KEY, Reply, Service, with_constants
from ..support.sshd import Sshd
from ..support.stages import until

pytestmark = pytest.mark.real("sshd", "qemu")

DATA = Path(__file__).parent.parent / "data/alerts"
ENTRIES = (
    entry("generic", 600, host="devvm")
    + entry("generic", 0, host="unsparing")
    + entry("alertmanager", alertname="DevvmDown", instance=r"~192\.0\.2\.20:.*")
    + entry("alertmanager", alertname='It\'s "quoted" \\ {{ x }} ☎')
    + entry("grafana", 600, alertname="DevvmDown")
)


@pytest.fixture(scope="module")
def alerted() -> Iterator[tuple[Service, Sshd]]:
    with alerting(ENTRIES) as running:
        yield running


@pytest.fixture
def service(alerted: tuple[Service, Sshd]) -> Service:
    """A handler whose host runs no capture, because an alert that comes during a capture attaches to it."""
    list_captures(alerted[0])
    return alerted[0]


@pytest.mark.all
def test_the_printed_curl_works(service: Service, tmp_path: Path) -> None:
    """The generic example is a shell script. It works as it is printed, and docs/alerts.md has the same text."""
    environment = {**os.environ, "BREAKGLASS_CONFIG": str(service.config)}
    environment["BREAKGLASS_SECRET"] = service.secrets["operator"]
    url = f"http://127.0.0.1:{service.port}"
    command = [sys.executable, "-m", "breakglass", "alert-example", "generic", "--url", url]
    script = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    [documented] = commands("docs/alerts.md", "Zabbix, and anything else")
    assert script == documented.replace("https://rescue.example.org", url)
    program = tmp_path / "breakglass"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m breakglass "$@"\n')
    program.chmod(0o755)
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    ran = subprocess.run(["sh", "-ec", script], env=environment, capture_output=True, text=True)
    assert json.loads(ran.stdout)["accepted"][0]["vm"] == "devvm", ran.stderr


@pytest.mark.real("alertmanager")
def test_the_printed_configuration_is_alertmanagers(tmp_path: Path, service: Service) -> None:
    """Alertmanager's own program accepts it, with matchers of any characters and with expressions."""
    path = tmp_path / "alertmanager.yml"
    path.write_text(run_command("alert-example", "alertmanager", BREAKGLASS_CONFIG=str(service.config)).stdout)
    assert path.read_text().count("matchers:") == 2
    checked = subprocess.run(["amtool", "check-config", str(path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def firing(fingerprint: str, host: str = "devvm", **more: object) -> dict[str, object]:
    labels = {"status": "firing", "labels": {"host": host}, "starts_at": "2026-11-24T02:50:00Z"}
    return {**labels, "fingerprint": fingerprint, **more}


def signed(service: Service, payload: object, source: str = "generic") -> Reply:
    body = json.dumps(payload).encode()
    return service.send("POST", f"/alert/{source}", body, service.signed(body))


# --- captures ---


def test_an_alert_is_captured_once_and_says_why(service: Service) -> None:
    """The first arrival starts a capture, and the second is a duplicate of it.

    The first answer comes before the capture has ended. `history` shows the alert. The log has a line for each, also
    for an ignored one, and no secret.
    """
    before = list_captures(service)
    payload = firing("first", "unsparing", annotations={"summary": "no ping\nfor 5 m"})
    began = time.monotonic()
    first = signed(service, payload)
    waited, second = time.monotonic() - began, signed(service, payload)
    assert first.status == second.status == signed(service, firing("unmatched", "unknown")).status == 202
    (taken,) = first.json["accepted"]
    job = taken["job"]
    page = f"https://rescue.example.org/bg/#vm=devvm&job={job}"
    assert taken == {"vm": "devvm", "job": job, "duplicate": False, "suppressed": False, "page": page}
    assert second.json == {"accepted": [{**taken, "duplicate": True}], "ignored": 0}
    new, *rest = list_captures(service)
    assert (new["id"], new["verb"], new["by"], new["outcome"]) == (taken["job"], "forensics", "operator", "done")
    assert waited < new["seconds"]
    assert new["why"] == "generic: firing since 2026-11-24T02:50:00Z\nhost=unsparing\nsummary: no ping\\nfor 5 m"
    assert rest == before
    until(lambda: noted_alerts(service)[-3:] == [(0, [page]), (0, []), (1, [])])
    assert not any(secret in service.log() for secret in (TOKEN, GRAFANA_SECRET, *service.secrets.values()))


def noted_alerts(service: Service) -> list[tuple[int, list[str]]]:
    """Return what the log says of each notification: how many alerts were ignored, and the captures' pages."""
    lines = [line for line in map(json.loads, service.log().splitlines()) if line["event"] == "alert"]
    return [(line["ignored"], [each["page"] for each in line["taken"]]) for line in lines]


def test_no_caller_can_take_an_alerts_capture_early(service: Service) -> None:
    """A caller who may only read guesses the id from the alert, and asks for the capture before the outage."""
    known = ["generic", "foreseen", "2026-11-24T02:50:00+00:00"]
    guess = f"alert-{hashlib.sha256(json.dumps(known).encode()).hexdigest()[:40]}"
    (taken,) = signed(service, firing("foreseen", "unsparing")).json["accepted"]
    assert (taken["job"] == guess, taken["duplicate"]) == (False, False)
    for msg_id in (guess, taken["job"]):
        claim = service.pve("forensics", caller="viewer", msg_id=msg_id, vm="devvm")
        error = claim.json["error"]
        assert (claim.status, error["code"], error["reached"]) == (400, "bad-request", False)
    shown = service.pve("history", caller="viewer", job=taken["job"], vm="devvm").json["job"]
    assert shown["id"] == taken["job"]


@pytest.mark.all
def test_a_storm_makes_one_capture_and_delays_no_verb(service: Service) -> None:
    """A hundred different alerts, each in its own notification, are all accepted, and share one capture."""
    before = len(list_captures(service))

    def fire(number: int) -> Reply:
        """Send an alert until it is accepted, because on a busy machine the host's answer may be too late."""
        replies = (signed(service, firing(f"storm-{number}")) for _ in range(100))
        return next(reply for reply in replies if reply.status != 503)

    with ThreadPoolExecutor(32) as pool:
        fired = [pool.submit(fire, number) for number in range(100)]
        assert service.pve("reset", vm="devvm").json["outcome"] == "done"
        replies = [each.result() for each in fired]
    assert {reply.status for reply in replies} == {202}
    [job] = {one["job"] for reply in replies for one in reply.json["accepted"]}
    assert len(list_captures(service)) <= before + 1
    (late,) = signed(service, firing("storm-is-over")).json["accepted"]  # within `fresh_seconds` of the capture's end
    assert (late["job"], late["suppressed"]) == (job, True)


# --- authentication and rights ---


def test_every_failed_authentication_gets_the_same_answer(service: Service) -> None:
    """A bad token, a bad signature, none, and Grafana's without a time get the same bytes.

    A bad token is refused before its body of a megabyte is sent.
    """
    body = json.dumps(firing("unknown")).encode()
    digest = hmac.new(GRAFANA_SECRET.encode(), body, hashlib.sha256).hexdigest()
    attempts = [
        {},
        {"authorization": "Bearer bgt_" + "x" * 43},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": "Basic YTpi"},
        {"x-grafana-alerting-signature": digest},
        {**service.signed(body), "authorization": "Bearer bgt_wrong"},
        service.signed(body + b" "),
    ]
    replies = [service.send("POST", "/alert/generic", body, headers) for headers in attempts]
    assert {reply.status for reply in replies} == {401}
    assert len({reply.body for reply in replies}) == 1
    with socket.create_connection(("127.0.0.1", service.port), 60) as connection:
        head = ["POST /alert/kuma HTTP/1.1", "host: x", "content-length: 900000", "authorization: Bearer bgt_x", "", ""]
        connection.sendall("\r\n".join(head).encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 401")


def grafana_headers(body: bytes, at: int) -> dict[str, str]:
    digest = hmac.new(GRAFANA_SECRET.encode(), f"{at}:".encode() + body, hashlib.sha256).hexdigest()
    return {"x-grafana-alerting-signature": digest, "x-grafana-alerting-timestamp": str(at)}


def test_grafana_signs_alerts_and_nothing_else(service: Service) -> None:
    """Grafana's own signature is accepted on /alert while it is fresh, and never on /pve.

    A sender with a wrong clock gets a challenge, with which its alert is accepted. Grafana gets none.
    """
    body, now = (DATA / "grafana.json").read_bytes(), int(time.time())
    reply = service.send("POST", "/alert/grafana", body, grafana_headers(body, now))
    assert (reply.status, len(reply.json["accepted"])) == (202, 1)
    verb = b'{"verb":"status","vm":"devvm"}'
    assert service.send("POST", "/pve", verb, grafana_headers(verb, now)).status == 401
    stale = service.send("POST", "/alert/grafana", body, grafana_headers(body, now - 4000))
    assert (stale.status, "challenge" in stale.json["error"]) == (401, False)
    late: dict[str, Any] = {"msg_id": "alert-from-a-wrong-clock", "at": now - 4000}
    body = json.dumps(firing("wrong clock")).encode()
    error = service.send("POST", "/alert/generic", body, service.signed(body, **late)).json["error"]
    assert error["code"] == "stale-timestamp"
    body = json.dumps({**firing("wrong clock"), "challenge": error["challenge"]}).encode()
    assert service.send("POST", "/alert/generic", body, service.signed(body, **late)).status == 202


def test_a_token_reads_and_changes_nothing(service: Service) -> None:
    """On /pve a token runs the reads that its entry allows; power is forbidden, and an unsigned id means nothing."""
    body = json.dumps({"verb": "status", "vm": "devvm"}).encode()
    headers = {"authorization": f"Bearer {TOKEN}", "webhook-id": "not-the-id"}
    reply = service.send("POST", "/pve", body, headers)
    assert (reply.status, reply.json["state"], reply.json["by"]) == (200, "running", "alertmanager")
    assert reply.json["id"] != "not-the-id"
    for verb in ("reset", "stop", "cycle", "start", "history"):
        refused = send_with_token(service, "/pve", {"verb": verb, "vm": "devvm"})
        assert (refused.status, refused.json["error"]["code"]) == (403, "forbidden")
    now = int(time.time())
    for path in ("/chat", "/echo", "/report"):  # as a stranger's request
        for headers in ({}, {"authorization": f"Bearer {TOKEN}"}, grafana_headers(body, now)):
            reply = service.send("POST", path, body, headers)
            assert (reply.status, reply.json["error"]["code"]) == (401, "unauthorized")


def test_vms_not_after_and_allow_apply_to_alerts(service: Service) -> None:
    """`vms`, `not_after` and `allow` apply to alerts, which get 403 if no firing alert is for this caller."""
    assert send_with_token(service, "/alert/generic", firing("x"), OTHER_TOKEN).status == 403
    assert send_with_token(service, "/alert/generic", firing("x"), EXPIRED_TOKEN).status == 403
    body = json.dumps(firing("x")).encode()
    assert service.send("POST", "/alert/generic", body, service.signed(body, "viewer")).status == 202


# --- requests that are not accepted ---


def test_wrong_addresses_and_sizes_get_their_errors(service: Service) -> None:
    """An unknown sender gets 404, more than a mebibyte 413, a payload of the wrong shape 400."""
    assert signed(service, firing("x"), "nagios").status == 404
    assert signed(service, firing("x", annotations={"a": "x" * 2**20})).status == 413
    assert signed(service, firing("x", annotations={"a": "x" * (2**20 - 300)})).status == 202
    assert signed(service, []).status == 400


def test_a_host_that_does_not_acknowledge_is_503(tmp_path: Path) -> None:
    """If a host accepts the connection but sends nothing, the answer comes after some seconds, here soon."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        extra, program = entry("generic", host="devvm"), with_constants("web.alert.ACK_SECONDS = 0.2")
        with Service(tmp_path, port=port, key=SSH_KEY, host_key="any", extra=extra, program=program) as other:
            reply = signed(other, firing("x"))
    assert reply.status == 503
    assert (reply.json["error"]["code"], reply.json["error"]["reached"]) == ("unknown", None)


def test_a_lost_host_gets_the_retry(service: Service, alerted: tuple[Service, Sshd]) -> None:
    """While sshd is down the answer is 503; the same notification sent again is captured once it is back."""
    sshd = alerted[1]
    payload = firing("while down", "unsparing")
    sshd.stop()
    try:
        service.not_answering()
        refused = signed(service, payload)
    finally:
        sshd.start()
        service.answering()
    error = refused.json["error"]
    assert (refused.status, error["code"], error["reached"]) == (503, "unreached", False)
    (taken,) = signed(service, payload).json["accepted"]
    assert not taken["duplicate"]
