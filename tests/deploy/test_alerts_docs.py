"""docs/alerts.md and the examples that are printed: what a sender is told to send is what its adapter reads."""

import base64
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from breakglass.alerts.examples import example
from breakglass.alerts.payloads import SENDERS, read_payload
from breakglass.config.load import load_config, parse
from breakglass.config.model import Config

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


def test_the_alerts_page_shows_the_printed_examples() -> None:
    """Its configuration is accepted, it has the examples that are printed for it, and it names each other one."""
    config = documented()
    assert (config.problems, [rule.source for rule in config.alerts]) == ((), ["alertmanager", "grafana"])
    for source in ("alertmanager", "generic"):
        assert f"\n{example(source, 'https://rescue.example.org', config.alerts)}```" in PAGE
    listed = PAGE.partition("`breakglass alert-example` has for ")[2].partition(". ")[0]
    assert re.findall(r"`([a-z]+)`", listed) == list(SENDERS)


FILLED = {
    "gatus": {"[ENDPOINT_NAME]": "devvm", "[ENDPOINT_GROUP]": "vms", "[ENDPOINT_URL]": "tcp://x:22"},
    "healthchecks": {"$CODE": "f1c2", "$NAME": "devvm", "$SLUG": "devvm", "$TAGS": "a b", "$NOW": "2026-11-24"},
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


def command(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    config = tmp_path / "breakglass.toml"
    config.touch(0o600)
    config.write_text(BASE)
    return run_command(*arguments, BREAKGLASS_CONFIG=str(config), BREAKGLASS_URL="https://rescue.example.org")


def test_the_alerts_pages_commands_run(tmp_path: Path) -> None:
    """They add the token's caller, and print the sender's configuration, as the page shows them."""
    [script] = commands("docs/alerts.md", "Setting it up")
    entry, example_for_sender = script.splitlines()
    made = command(tmp_path, *shlex.split(entry, comments=True)[1:])
    assert load_config(tmp_path / "breakglass.toml", {}).callers[-1].name == "alertmanager", made.stderr
    printed = command(tmp_path, *shlex.split(example_for_sender, comments=True)[1:])
    assert "- url: https://rescue.example.org/alert/alertmanager\n" in printed.stdout, printed.stderr
    assert "no [[alerts]] entry" in printed.stderr
    assert command(tmp_path, "alert-example", "nagios").returncode == 2
