"""A real Alertmanager, with the configuration that we print, sends alerts to a real handler, OpenSSH server and VM."""

import time
from collections.abc import Iterator

import pytest

from ..support.alerting import Alertmanager, alerting, entry, list_captures
from ..support.forked import run_command
from ..support.service import Service
from ..support.stages import until

pytestmark = pytest.mark.real("alertmanager", "sshd", "qemu")

# Alertmanager does not start if the printed text of one of them is wrong.
ENTRIES = entry("alertmanager", 0, alertname="DevvmDown", instance=r"~192\.0\.2\.20:.*") + entry(
    "alertmanager", alertname='It\'s "quoted" \\ {{ x }} ☎'
)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with alerting(ENTRIES) as (service, _):
        yield service


@pytest.fixture
def alertmanager(service: Service) -> Iterator[Alertmanager]:
    """It has the configuration that `breakglass alert-example` prints for this handler."""
    url = f"http://127.0.0.1:{service.port}"
    ran = run_command("alert-example", "alertmanager", "--url", url, BREAKGLASS_CONFIG=str(service.config))
    alertmanager = Alertmanager(service.directory, ran.stdout)
    yield alertmanager
    alertmanager.stop()


@pytest.mark.all
def test_an_alert_is_captured_once_and_its_end_is_not(service: Service, alertmanager: Alertmanager) -> None:
    """A firing alert starts a capture on the VM, with its reason. A resolved one is delivered and captures nothing."""
    before, start = list_captures(service), time.time()
    labels = {"alertname": "DevvmDown", "instance": "192.0.2.20:9100"}
    alertmanager.alert(labels, start)
    until(lambda: alertmanager.count_answers() >= 1)
    new, *rest = list_captures(service)
    assert rest == before
    assert (new["by"], new["outcome"]) == ("alertmanager", "done")
    marks = ("alertmanager: ", "instance=192.0.2.20:9100", "summary: ")
    assert [mark for mark in marks if mark not in new["why"]] == []
    alertmanager.alert(labels, start, time.time())
    until(lambda: alertmanager.count_answers() >= 2)
    assert [job["id"] for job in list_captures(service)] == [new["id"], *(job["id"] for job in before)]
    assert alertmanager.count("notifications_failed_total") == 0
