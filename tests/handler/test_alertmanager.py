"""A real Alertmanager, with the configuration that we print, sends alerts to a real handler, OpenSSH server and VM."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from breakglass.config.load import parse

from ..support.alerting import Alertmanager, alerting, entry, list_captures, until
from ..support.service import SSH_KEY, Service

pytestmark = pytest.mark.real("alertmanager", "sshd", "qemu")

ENTRIES = entry("alertmanager", 0, alertname="DevvmDown", instance=r"~192\.0\.2\.20:.*")


def printed(service: Service, *arguments: str) -> str:
    """Return what `breakglass alert-example` prints for this handler."""
    environment = {**os.environ, "BREAKGLASS_CONFIG": str(service.config)}
    command = [sys.executable, "-m", "breakglass", "alert-example", *arguments]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with alerting(ENTRIES) as (service, _):
        yield service


@pytest.fixture(scope="module")
def example(service: Service) -> str:
    return printed(service, "alertmanager", "--url", f"http://127.0.0.1:{service.port}")


@pytest.fixture
def alertmanager(service: Service, example: str) -> Iterator[Alertmanager]:
    alertmanager = Alertmanager(service.directory, example)
    yield alertmanager
    alertmanager.stop()


@pytest.mark.all
def test_amtool_accepts_the_printed_configuration(tmp_path: Path) -> None:
    """The tool amtool accepts the configuration with an entry, with hostile texts in one, and with no entry."""
    for entries in (ENTRIES, "", entry("alertmanager", alertname='It\'s "quoted" \\ {{ x }} ☎')):
        config = tmp_path / "breakglass.toml"
        config.touch(0o600)
        text = f'[callers.a]\nsecret = "whsec_{"b29v" * 11}"\nallow = ["status"]\n[sessions]\nsecret = "{"s" * 40}"\n'
        text += f"[hosts.pve1]\nssh = 'a@b'\nkey = '''{SSH_KEY}'''\nhost_key = 'any'\n"
        text += '[vms.devvm]\nhosts = ["pve1"]\nvmid = 102\n' + entries
        config.write_text(text)
        assert parse(text, str).problems == ()
        environment = {**os.environ, "BREAKGLASS_CONFIG": str(config), "BREAKGLASS_URL": "https://rescue.example.org"}
        command = [sys.executable, "-m", "breakglass", "alert-example", "alertmanager"]
        made = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        path = tmp_path / "alertmanager.yml"
        path.write_text(made)
        checked = subprocess.run(["amtool", "check-config", path], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "https://rescue.example.org/alert/alertmanager" in made


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
    assert new["why"].startswith("alertmanager: firing since ")
    assert "instance=192.0.2.20:9100" in new["why"]
    assert "summary: devvm does not answer" in new["why"]
    alertmanager.alert(labels, start, time.time())
    until(lambda: alertmanager.count_answers() >= 2)
    assert [job["id"] for job in list_captures(service)] == [new["id"], *(job["id"] for job in before)]
    assert alertmanager.count("notifications_failed_total") == 0
