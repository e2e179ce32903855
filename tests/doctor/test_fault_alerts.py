"""Faults of [[alerts]], seeded one by one: each is found, with its fix."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from breakglass.alerts.payloads import SENDERS

from ..support.doctor import Fault, Setup, cases, check_fault
from ..support.service import new_secret

pytestmark = pytest.mark.slow

PLACES = ("alerts",)
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


def entry(source: str, match: object = None, **more: object) -> Callable[[Setup], None]:
    """Return a seed that adds an entry, and a caller with a token that may send it."""

    def seed(setup: Setup) -> None:
        alerts = setup.config.setdefault("alerts", [])
        alerts.append({"source": source, "match": match or MATCHING[source], "vm": "devvm", **more})
        setup.config["callers"].setdefault("monitor", {"token": "bgt_" + "aB3dE" * 9, "allow": ["forensics"]})

    return seed


def caller(**values: object) -> Callable[[Setup], None]:
    """Return a seed that adds an entry for Alertmanager, and changes its caller."""

    def seed(setup: Setup) -> None:
        entry("alertmanager")(setup)
        setup.config["callers"]["monitor"] |= values

    return seed


def no_caller(source: str) -> Callable[[Setup], None]:
    def seed(setup: Setup) -> None:
        entry(source)(setup)
        del setup.config["callers"]["monitor"]

    return seed


def grafana_alone(source: str) -> Callable[[Setup], None]:
    """Return a seed in which the only monitoring system that may send is a Grafana with its own signature."""

    def seed(setup: Setup) -> None:
        no_caller(source)(setup)
        setup.config["callers"]["grafana"] = {"grafana_secret": new_secret(), "allow": ["forensics"]}

    return seed


def sample(source: str, match: object, file: str = "", body: bytes = b"") -> Callable[[Setup], None]:
    """Return a seed that adds an entry, and a notification that was sent."""

    def seed(setup: Setup) -> None:
        entry(source, match)(setup)
        path = DATA / file
        if body:
            path = setup.directory / "sample.json"
            path.write_bytes(body)
        setup.words += ["--sample", f"{source}={path}"]

    return seed


def twice(setup: Setup) -> None:
    entry("kuma")(setup)
    entry("kuma")(setup)


def other_source(setup: Setup) -> None:
    entry("kuma")(setup)
    setup.words += ["--sample", f"gatus={DATA / 'gatus.json'}"]


def vm_off(setup: Setup) -> None:
    entry("kuma", vm="other")(setup)
    setup.config["vms"]["other"] = {"hosts": ["pve1"], "vmid": "none"}


def other_vm(setup: Setup) -> None:
    caller(vms=["other"])(setup)
    setup.config["vms"]["other"] = {"hosts": ["pve1"], "vmid": 103}


PATTERN = {"alertname": "~Devvm", "instance": "~192\\.0\\.2\\.20"}
FAULTS = [
    Fault(
        "no caller with a token", no_caller("alertmanager"), "alert-without-caller", "keys new alertmanager --bearer"
    ),
    Fault("no caller for a Grafana", no_caller("grafana"), "alert-without-caller", "keys new grafana --grafana"),
    Fault("a Grafana that should be a Kuma", grafana_alone("kuma"), "alert-without-caller", "keys new kuma --bearer"),
    Fault("a caller that may not", caller(allow=["status"]), "alert-without-caller", 'add "forensics" to allow'),
    Fault("a caller of another VM", other_vm, "alert-without-caller", '"devvm" to vms'),
    Fault(
        "a caller that has expired", caller(not_after=datetime(2020, 1, 1, tzinfo=UTC)), "alert-without-caller", "new"
    ),
    Fault("an unknown source", entry("nagios", {"host": "a"}), "alert-disabled", "generic"),
    Fault("an unknown VM", entry("kuma", vm="devvm1"), "alert-disabled", "devvm"),
    Fault("a VM that is off", vm_off, "alert-disabled", "correct the error"),
    Fault("a pattern that is none", entry("kuma", {"monitor": "~[a"}), "alert-disabled", "breakglass docs alerts"),
    Fault("a pattern that takes too long", entry("kuma", {"monitor": "~.*.*.*x"}), "alert-disabled", "twice at most"),
    Fault("no label", entry("kuma", {"monitor": 3}), "alert-disabled", "quotes"),
    Fault("an unknown setting", entry("kuma", labels="x"), "unknown-setting", "take it out"),
    Fault("a label that Gatus has not", entry("gatus", {"alertname": "a"}), "alert-never-matches", "endpoint"),
    Fault("a label that Healthchecks has not", entry("healthchecks", {"check": "a"}), "alert-never-matches", "slug"),
    Fault("a label that Proxmox has not", entry("pve", {"node": "pve1"}), "alert-never-matches", "hostname"),
    Fault("a severity that there is not", entry("pve", {"severity": "critical"}), "alert-never-matches", "severity"),
    Fault("a pattern of no severity", entry("pve", {"severity": "~crit.*"}), "alert-never-matches", "warning, error"),
    Fault("Proxmox's test", entry("pve", {"type": "test"}), "alert-never-matches", "type"),
    Fault("Grafana's test", entry("grafana", {"alertname": "TestAlert"}), "alert-never-matches", "alertname"),
    Fault("an empty label", entry("alertmanager", {"instance": ""}), "alert-never-matches", "instance"),
    Fault("an empty pattern", entry("kuma", {"monitor": "~"}), "alert-never-matches", "monitor"),
    Fault("a space at the end", entry("kuma", {"monitor": "devvm "}), "alert-space", 'match.monitor = "devvm"'),
    Fault("a star as in a shell", entry("kuma", {"monitor": "dev*"}), "alert-plain-pattern", "'~dev.*'"),
    Fault("a pattern without its sign", entry("kuma", {"monitor": "dev.*"}), "alert-plain-pattern", "'~dev.*'"),
    Fault("an entry that stands there twice", twice, "alert-repeated", "remove one"),
    Fault(
        "a text that the sample has not",
        sample("alertmanager", {"alertname": "Devvmdown"}, "alertmanager.json"),
        "alert-sample-differs",
        'match.alertname = "DevvmDown"',
    ),
    Fault(
        "a pattern that matches a part of the sample",
        sample("alertmanager", PATTERN, "alertmanager.json"),
        "alert-sample-differs",
        "the whole text",
    ),
    Fault(
        "a label that the sample has not",
        sample("kuma", {"name": "devvm"}, "kuma.json"),
        "alert-sample-differs",
        "monitor",
    ),
    Fault("a sample of another sender", sample("kuma", None, body=b'{"alerts": 7}'), "sample-not-firing", "began"),
    Fault("a sample that is no JSON", sample("kuma", None, body=b"down"), "sample-unreadable", "alert-example kuma"),
    Fault("a sample of a test", sample("grafana", None, "grafana_test.json"), "sample-not-firing", "began"),
    Fault("a sample without an entry", other_source, "alert-no-entry", 'source = "gatus"'),
]


@pytest.mark.parametrize(
    "fault",
    cases(
        FAULTS,
        "no caller with a token",
        "a caller that may not",
        "a label that Gatus has not",
        "an unknown VM",
        "a text that the sample has not",
        "a sample that is no JSON",
    ),
)
def test_a_fault_is_found_with_its_fix(setup: Setup, fault: Fault) -> None:
    check_fault(setup, fault, PLACES, is_alone=True)


def test_each_sender_is_well(setup: Setup) -> None:
    """An entry for each sender matches the notification that was recorded of it."""
    for source in SENDERS:
        entry(source)(setup)
        setup.words += ["--sample", f"{source}={DATA / source}.json"]
    report = setup.doctor(places=PLACES)
    assert [(each.level, each.code) for each in report.findings] == [("ok", "alert")] * len(SENDERS)


@pytest.mark.parametrize("word", ["kuma", "nagios=/dev/null", "kuma=/nowhere.json", "kuma=/proc"])
def test_a_sample_that_can_not_be_read(setup: Setup, word: str) -> None:
    """It is a mistake on the command line: nothing is checked."""
    report = setup.doctor("--sample", word)
    assert (report.code, report.stdout, report.stderr.startswith("breakglass: --sample: ")) == (2, "", True)


def test_no_label_takes_over_the_terminal(setup: Setup) -> None:
    """A sample is a stranger's text: its control characters are written out."""
    labels = {"host\x1b[2J": "\x1b]0;x\x07"}
    body = json.dumps({"status": "firing", "labels": labels}).encode()
    sample("generic", {"host": "devvm"}, body=body)(setup)
    report = setup.doctor(places=PLACES, json=False)
    assert (report.code, "\x1b" in report.stdout, "\\x1b[2J" in report.stdout) == (2, False, True)
