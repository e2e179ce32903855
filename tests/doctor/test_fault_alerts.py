"""Faults of [[alerts]], seeded one by one: each is found, with its fix.

tests/data/faulty_alerts.yaml has them, and these functions seed them.
"""

import json
from pathlib import Path

import pytest

from breakglass.alerts.payloads import SENDERS

from ..support.doctor import Setup, check_fault, each_fault, read_faults

pytestmark = pytest.mark.slow

PLACES = ("alerts",)
FAULTS = read_faults("faulty_alerts.yaml")["faults"]
DATA = Path(__file__).parent.parent / "data/alerts"
MATCHING = {
    "alertmanager": {"alertname": "DevvmDown"},
    "grafana": {"alertname": "DevvmDown"},
    "kuma": {"monitor": "~.+"},
    "gatus": {"endpoint": "~.+"},
    "healthchecks": {"slug": "devvm-heartbeat"},
    "pve": {"type": "fencing"},
    "generic": {"host": "~.+"},
}


def entry(setup: Setup, source: str, match: object = None, **more: object) -> None:
    """Add an entry, and a caller with a token that may send it."""
    alerts = setup.config.setdefault("alerts", [])
    alerts.append({"source": source, "match": match or MATCHING[source], "vm": "devvm", **more})
    setup.config["callers"].setdefault("monitor", {"token": "bgt_" + "aB3dE" * 9, "allow": ["forensics"]})


def caller(setup: Setup, **values: object) -> None:
    """Add an entry for Alertmanager, and change its caller."""
    entry(setup, "alertmanager")
    setup.config["callers"]["monitor"] |= values


def no_caller(setup: Setup, source: str) -> None:
    entry(setup, source)
    del setup.config["callers"]["monitor"]


def sample(setup: Setup, source: str, match: object = None, file: str = "", body: str = "") -> None:
    """Add an entry, and a notification that was sent."""
    entry(setup, source, match)
    path = DATA / file
    if body:
        path = setup.directory / "sample.json"
        path.write_text(body)
    setup.words += ["--sample", f"{source}={path}"]


def twice(setup: Setup) -> None:
    entry(setup, "kuma")
    entry(setup, "kuma")


def other_source(setup: Setup) -> None:
    entry(setup, "kuma")
    setup.words += ["--sample", f"gatus={DATA / 'gatus.json'}"]


def other_vm(setup: Setup) -> None:
    caller(setup, vms=["other"])
    setup.config["vms"]["other"] = {"hosts": ["pve1"], "vmid": 103}


@each_fault(FAULTS)
def test_a_fault_is_found_with_its_fix(setup: Setup, name: str) -> None:
    check_fault(setup, FAULTS[name], globals(), PLACES, is_alone=True)


def test_each_sender_is_well(setup: Setup) -> None:
    """An entry for each sender matches the notification that was recorded of it."""
    for source in SENDERS:
        entry(setup, source)
        setup.words += ["--sample", f"{source}={DATA / source}.json"]
    report = setup.doctor(places=PLACES)
    assert [(each.level, each.code) for each in report.findings] == [("ok", "alert")] * len(SENDERS)


def test_no_label_takes_over_the_terminal(setup: Setup) -> None:
    """A sample is a stranger's text: its control characters are written out."""
    labels = {"host\x1b[2J": "\x1b]0;x\x07"}
    sample(setup, "generic", {"host": "devvm"}, body=json.dumps({"status": "firing", "labels": labels}))
    report = setup.doctor(places=PLACES, json=False)
    assert (report.code, "\x1b" in report.stdout, "\\x1b[2J" in report.stdout) == (2, False, True)
