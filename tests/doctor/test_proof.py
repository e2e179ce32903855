"""doctor's last act: without an error, each host records that it is proven; with one, nothing is sent."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from breakglass.auth.signing import secret_bytes
from breakglass.base.findings import OK, WARNING, Finding
from breakglass.client import Signer, VerbCall, call, new_id
from breakglass.demo.proxmox.world import World
from breakglass.doctor.http import Reply
from breakglass.doctor.signed import judge_proof

from ..support.doctor import Report, found
from ..support.rows import each_row
from ..support.running import Running, new_setup
from ..support.sshd import Sshd

pytestmark = [pytest.mark.real("sshd", "qemu"), pytest.mark.shared("world", "sshd"), pytest.mark.slow]
PLACES = ("handler", "proof")


@pytest.fixture(scope="module")
def running(directory: Path, shared_sshd: Sshd) -> Iterator[Running]:
    place = directory / "proof"
    place.mkdir()
    with Running(new_setup(place, shared_sshd)).run() as running:
        running.ready()
        yield running


@pytest.fixture
def unproven(world: World, running: Running) -> Running:
    """A handler whose host was never proven."""
    for file in world.root.glob("*/*/proven.json"):
        file.unlink()
    for file in world.root.glob("*/*/*/proven.json"):
        file.unlink()
    return running


def proven(running: Running) -> object:
    key = secret_bytes(running.setup.operator)
    return call(Signer(running.url, key), new_id(), VerbCall("status", "devvm"), lambda _: None)["proven"]


def proof(report: Report) -> Finding:
    assert report.stdout, report.stderr
    [finding] = [finding for finding in report.findings if finding.place == "proof"]
    return finding


def test_a_doctor_without_errors_proves_the_host(unproven: Running) -> None:
    assert proven(unproven) is None
    report = unproven.setup.doctor(places=PLACES)
    finding = proof(report)
    assert (finding.level, finding.code, report.code) == (OK, "proven", 0), finding
    recorded = proven(unproven)
    assert isinstance(recorded, dict)
    assert (recorded["how"], recorded["by"]) == ("doctor", "operator")
    assert recorded["at"] in finding.sentence


@each_row(
    "recorded", [None, {"at": "2026-11-27T03:00:00Z", "how": "doctor"}, {"at": "2026-11-28T03:00:00Z", "how": "drill"}]
)
def test_a_host_that_could_not_record_it_is_not_said_to_be_proven(recorded: object) -> None:
    """Its /run is full, so it has an older proof or none."""
    at = datetime(2026, 11, 28, 3, tzinfo=UTC).timestamp()
    body = json.dumps({"outcome": "done", "state": "running", "proven": recorded}).encode()
    finding = judge_proof(Reply(200, {}, body, at, at), "devvm", "pve1")
    assert (finding.level, finding.code) == (WARNING, "not-proven")
    assert "did not record" in finding.sentence


@pytest.mark.all
def test_a_doctor_with_an_error_proves_nothing(unproven: Running) -> None:
    """Here the caller may not run status, so nothing is sent, and only the error is said."""
    before = unproven.setup.environment["BREAKGLASS_SECRET_FILE"]
    unproven.setup.environment["BREAKGLASS_SECRET_FILE"] = str(unproven.setup.directory / "historian")
    try:
        report = unproven.setup.doctor(places=PLACES)
    finally:
        unproven.setup.environment["BREAKGLASS_SECRET_FILE"] = before
    assert [finding for finding in report.findings if finding.place == "proof"] == []
    assert (proven(unproven), found(report.findings, "status-forbidden").level, report.code) == (None, "error", 2)
