"""docs/alerts.md and the examples that are printed: what a sender is told to send is what its adapter reads."""

import base64
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from breakglass.alerts.examples import EXAMPLES, example
from breakglass.alerts.payloads import SENDERS, read_payload
from breakglass.alerts.rules import Rule
from breakglass.base.templates import fill
from breakglass.config.load import load_config, parse
from breakglass.config.model import Config
from breakglass.config.server import page_link

from ..support.documents import commands, settings
from ..support.forked import run_command
from ..support.rows import each_row
from ..support.service import SSH_KEY

pytestmark = pytest.mark.slow  # a command and its files in each test

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/alerts.md").read_text(encoding="utf-8")
BASE = f"""[callers.operator]
secret = "whsec_{base64.b64encode(b"o" * 32).decode()}"
allow = ["status"]
[hosts.pve1]
ssh = "breakglass@192.0.2.10"
key = '''{SSH_KEY}'''
host_key = "any"
[vms.devvm]
hosts = ["pve1"]
vmid = 102
[sessions]
secret = "{"s" * 32}"
"""


def documented() -> Config:
    """Return the page's configuration."""
    [text] = settings("docs/alerts.md", "Setting it up")
    return parse(BASE + text, str)


def test_the_alerts_page_shows_a_configuration_without_faults() -> None:
    """The page's configuration is accepted, and has an entry for each of the two senders."""
    config = documented()
    assert config.problems == ()
    assert [rule.source for rule in config.alerts] == ["alertmanager", "grafana"]


@each_row("source", SENDERS)
def test_the_alerts_page_shows_the_printed_examples(source: str) -> None:
    """The page has each example as it is printed for the page's configuration."""
    assert f"\n{example(source, 'https://rescue.example.org', documented().alerts)}```" in PAGE


def test_every_sender_has_an_example() -> None:
    """There is an example for each address and for nothing else."""
    assert set(EXAMPLES) == set(SENDERS)


@pytest.mark.real("promtool")
def test_the_annotation_names_the_vm_of_the_alert(tmp_path: Path) -> None:
    """Prometheus' own program fires the documented rule: its link opens the VM in the label, as the answer's does."""
    [rules] = [text for text in settings("docs/alerts.md", "A link in each message") if "groups:" in text]
    (tmp_path / "rules.yml").write_text(rules)
    link = page_link("https://rescue.example.org/", "devvm")
    fired = {
        "exp_labels": {"job": "vms", "vm": "devvm"},
        "exp_annotations": {"summary": "devvm does not answer", "breakglass": link},
    }
    case = {
        "interval": "1m",
        "input_series": [{"series": 'up{job="vms",vm="devvm"}', "values": "0x10"}],
        "alert_rule_test": [{"eval_time": "5m", "alertname": "VmDown", "exp_alerts": [fired]}],
    }
    test = tmp_path / "test.json"  # YAML has JSON in it
    test.write_text(json.dumps({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [case]}))
    ran = subprocess.run(["promtool", "test", "rules", test], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.real("alertmanager")
def test_the_receiver_shows_the_link(tmp_path: Path) -> None:
    """Alertmanager's own program takes the documented receiver, and its text has the link of each alert that fires."""
    [receiver] = [text for text in settings("docs/alerts.md", "A link in each message") if "slack_configs" in text]
    config = tmp_path / "alertmanager.yml"
    config.write_text(f"route:\n  receiver: default\n{receiver}")
    checked = subprocess.run(["amtool", "check-config", config], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    link = page_link("https://rescue.example.org/", "devvm")
    alert = {"status": "firing", "annotations": {"summary": "devvm does not answer", "breakglass": link}}
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"status": "firing", "alerts": [alert, {**alert, "status": "resolved"}]}))
    [text] = re.findall(r"text: '(.*)'", receiver)
    render = ["amtool", "template", "render", "--template.glob=/dev/null", f"--template.data={data}"]
    shown = subprocess.run([*render, f"--template.text={text}"], capture_output=True, text=True)
    assert shown.stdout.strip() == f"devvm does not answer: {link}", shown.stderr


FILLED = {
    "gatus": {"[ENDPOINT_NAME]": "devvm", "[ENDPOINT_GROUP]": "vms", "[ENDPOINT_URL]": "tcp://x:22"},
    "healthchecks": {
        "$CODE": "f1c2",
        "$NAME": "devvm",
        "$SLUG": "devvm",
        "$TAGS": "a b",
        "$NOW": "2026-11-24",
    },
    "pve": {
        "{{ json fields }}": '{"type": "fencing", "hostname": "pve1"}',
        "{{ timestamp }}": "1795402213",
        **dict.fromkeys(("{{ severity }}", "{{ escape title }}", "{{ escape message }}"), "text"),
    },
    "generic": {},
}
FIRES = {"gatus": ("[ALERT_TRIGGERED_OR_RESOLVED]", "TRIGGERED", "RESOLVED"), "healthchecks": ("$STATUS", "down", "up")}


@each_row("source", FILLED)
def test_the_body_in_each_example_fires(source: str) -> None:
    """The body in an example, filled in as the sender does, fires with the labels that are documented for it."""
    match = re.search(r"\{\"(?:.|\n)*\}(?=['\n])", example(source, "https://rescue.example.org", ()))
    assert match is not None
    body = match[0]
    for name, value in FILLED[source].items():
        assert name in body
        body = body.replace(name, value)
    name, fires, ends = FIRES.get(source, ("", "", ""))
    (alert,) = read_payload(source, body.replace(name, fires).encode() if name else body.encode())
    assert alert.firing
    labels = {"gatus": "endpoint group url", "healthchecks": "name slug tags", "pve": "type hostname severity"}
    assert sorted(alert.labels) == sorted(labels.get(source, "host").split())
    if name:
        assert not read_payload(source, body.replace(name, ends).encode())[0].firing


def test_kumas_headers_are_json() -> None:
    """Kuma parses its additional headers as JSON (a text for each name)."""
    match = re.search(r"Additional Headers: (.*)", example("kuma", "https://rescue.example.org", ()))
    assert match is not None
    assert json.loads(match[1])["Authorization"].startswith("Bearer bgt_")


def test_grafanas_example_names_the_headers_that_are_read() -> None:
    """The example's header names are those in which the handler looks for Grafana's signature."""
    text = example("grafana", "https://rescue.example.org/", ())
    for line in ("header: X-Grafana-Alerting-Signature", "timestampHeader: X-Grafana-Alerting-Timestamp"):
        assert line in text
    assert "url: https://rescue.example.org/alert/grafana" in text


def test_alertmanagers_example_has_a_route_for_each_match() -> None:
    """Two entries of one match are one route; an expression is one; each label is its own matcher."""
    rules = [Rule("alertmanager", {"a": "1", "b": re.compile("x.*")}, vm) for vm in ("one", "two")]
    text = example("alertmanager", "https://rescue.example.org", [*rules, Rule("grafana", {"c": "3"}, "one")])
    assert re.findall("matchers: (.*)", text) == [json.dumps(['a="1"', 'b=~"x.*"'])]


def test_a_value_is_not_read_as_a_template() -> None:
    """A value that looks like a placeholder is printed as it is."""
    assert fill("@A@ @B@", a="@B@", b="x") == "@B@ x"


def command(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    config = tmp_path / "breakglass.toml"
    config.touch(0o600)
    config.write_text(BASE)
    return run_command(*arguments, BREAKGLASS_CONFIG=str(config), BREAKGLASS_URL="https://rescue.example.org")


def test_the_command_prints_the_example(tmp_path: Path) -> None:
    """The address comes from BREAKGLASS_URL; a missing entry is a warning, an unknown sender an error."""
    printed = command(tmp_path, "alert-example", "kuma")
    assert (printed.returncode, printed.stdout) == (0, example("kuma", "https://rescue.example.org", ()))
    assert "no [[alerts]] entry" in printed.stderr
    assert command(tmp_path, "alert-example", "nagios").returncode == 2


def test_the_alerts_pages_commands_run(tmp_path: Path) -> None:
    """They add the token's caller, and print the sender's configuration, as the page shows them."""
    [script] = commands("docs/alerts.md", "Setting it up")
    entry, example_for_sender = script.splitlines()
    made = command(tmp_path, *shlex.split(entry, comments=True)[1:])
    assert load_config(tmp_path / "breakglass.toml", {}).callers[-1].name == "alertmanager", made.stderr
    printed = command(tmp_path, *shlex.split(example_for_sender, comments=True)[1:])
    assert "- url: https://rescue.example.org/alert/alertmanager\n" in printed.stdout, printed.stderr


@each_row(("flag", "way"), [("--bearer", "bearer"), ("--grafana", "grafana"), ("", "signature")])
def test_keys_new_makes_a_key_of_each_auth_method(tmp_path: Path, flag: str, way: str) -> None:
    """`keys new` makes a usable entry for each auth method, and a different one every time."""
    made = [command(tmp_path, "keys", "new", "--print", "am", *([flag] if flag else [])).stdout for _ in range(2)]
    assert made[0] != made[1]
    config = parse(BASE, str, {"am": made[0]})
    assert config.problems == ()
    assert (config.callers[-1].name, config.callers[-1].auth_method) == ("am", way)
