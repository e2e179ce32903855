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

import asyncssh
import pytest

from breakglass.client import new_id

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
from ..support.service import Reply, Service
from ..support.sshd import Sshd
from ..support.stages import until

pytestmark = pytest.mark.real("sshd", "qemu")

DATA = Path(__file__).parent.parent / "data/alerts"
ENTRIES = (
    entry("generic", 600, host="devvm")
    + entry("generic", 0, host="unsparing")
    + entry("alertmanager", 600, alertname="DevvmDown")
    + entry("grafana", 600, alertname="DevvmDown")
    + entry("kuma", 600, monitor="devvm ssh")
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


def firing(fingerprint: str, host: str = "devvm", **more: object) -> dict[str, object]:
    labels = {"status": "firing", "labels": {"host": host}, "starts_at": "2026-11-24T02:50:00Z"}
    return {**labels, "fingerprint": fingerprint, **more}


def signed(service: Service, payload: object, source: str = "generic") -> Reply:
    body = json.dumps(payload).encode()
    return service.send("POST", f"/alert/{source}", body, service.signed(body))


# --- captures ---


def test_an_alert_is_captured_once_and_says_why(service: Service) -> None:
    """The first arrival starts a capture, and the second is a duplicate of it.

    The first answer comes before the capture has ended. `history` shows the alert.
    """
    before = list_captures(service)
    payload = firing("first", "unsparing", annotations={"summary": "no ping\nfor 5 m"})
    began = time.monotonic()
    first = signed(service, payload)
    waited, second = time.monotonic() - began, signed(service, payload)
    assert first.status == second.status == 202
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
    """Grafana's own signature is accepted on /alert while it is fresh, and never on /pve."""
    body = (DATA / "grafana.json").read_bytes()
    now = int(time.time())
    reply = service.send("POST", "/alert/grafana", body, grafana_headers(body, now))
    assert (reply.status, len(reply.json["accepted"])) == (202, 1)
    stale = service.send("POST", "/alert/grafana", body, grafana_headers(body, now - 301))
    assert (stale.status, stale.json["error"]["code"]) == (401, "stale-timestamp")
    verb = b'{"verb":"status","vm":"devvm"}'
    refused = service.send("POST", "/pve", verb, grafana_headers(verb, now))
    assert (refused.status, refused.json["error"]["code"]) == (401, "unauthorized")


def test_a_sender_with_a_wrong_clock_gets_through(service: Service) -> None:
    """An alert with a wrong time gets a challenge, and is accepted with it, as a verb is. Grafana gets none."""
    at, msg_id = int(time.time()) - 4000, "alert-from-a-wrong-clock"
    payload = firing("wrong clock")
    body = json.dumps(payload).encode()
    error = service.send("POST", "/alert/generic", body, service.signed(body, msg_id=msg_id, at=at)).json["error"]
    assert error["code"] == "stale-timestamp"
    body = json.dumps({**payload, "challenge": error["challenge"]}).encode()
    assert service.send("POST", "/alert/generic", body, service.signed(body, msg_id=msg_id, at=at)).status == 202
    stale = service.send("POST", "/alert/grafana", body, grafana_headers(body, at))
    assert (stale.status, "challenge" in stale.json["error"]) == (401, False)


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


def test_wrong_addresses_methods_and_sizes_get_their_errors(service: Service) -> None:
    """An unknown sender gets 404, another method 405, more than a mebibyte 413, a payload of the wrong shape 400."""
    assert signed(service, firing("x"), "nagios").status == 404
    assert signed(service, firing("x"), "generic/").status == 404
    assert service.send("GET", "/alert/generic").status == 405
    assert signed(service, firing("x", annotations={"a": "x" * 2**20})).status == 413
    assert signed(service, firing("x", annotations={"a": "x" * (2**20 - 300)})).status == 202
    assert (signed(service, {"status": "firing", "labels": []}).status, signed(service, []).status) == (202, 400)
    assert signed(service, {"status": 1}).json["error"]["message"] == "status is not text"


@pytest.mark.all
@pytest.mark.slow
def test_a_host_that_does_not_acknowledge_is_503(tmp_path: Path) -> None:
    """If a host accepts the connection but sends nothing, the answer comes after eight seconds and says so."""
    key = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        other = Service(tmp_path, port=port, key=key, host_key="any", extra=entry("generic", host="devvm"))
        try:
            reply = signed(other, firing("x"))
        finally:
            other.stop()
    assert reply.status == 503
    assert reply.json["error"]["message"].startswith(f"127.0.0.1:{port} did not confirm that the capture began")


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


def test_each_alert_is_on_record_without_any_secret(service: Service) -> None:
    """The log has a line for an accepted alert, for its repetition and for an ignored one, and no secret."""
    log, earlier = service.audit_file, new_id()
    service.pve("status", msg_id=earlier, vm="devvm")
    service.logged(earlier)  # with the alerts of the earlier tests
    begin, payload = log.stat().st_size, firing("recorded", "unsparing")
    for each in (payload, payload, firing("unmatched", "unknown")):
        assert signed(service, each).status == 202

    def recorded_since() -> list[dict[str, Any]]:
        whole = log.read_bytes()[begin:].rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def outcomes() -> list[str]:
        return [line["outcome"] for line in recorded_since() if line.get("verb", "").startswith("alert/")]

    until(lambda: outcomes() == ["accepted", "repeated", "ignored"])
    notes = [line for line in recorded_since() if line.get("event") == "alert"]
    assert [(note["ignored"], len(note["taken"])) for note in notes] == [(0, 1), (0, 0), (1, 0)]
    [taken] = notes[0]["taken"]
    assert taken["page"] == f"https://rescue.example.org/bg/#vm=devvm&job={taken['job']}"
    text = log.read_text()
    assert not any(secret in text for secret in (TOKEN, GRAFANA_SECRET, *service.secrets.values()))
