"""The command `doctor` itself: what it prints, its exit codes, and which caller and handler it takes."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from breakglass.agents.pve.words import VERSION
from breakglass.auth.signing import secret_bytes
from breakglass.cli.doctor import default_url, find_key
from breakglass.cli.output import CommandError
from breakglass.config.load import parse
from breakglass.config.model import Config

from ..support.doctor import Setup, found
from ..support.service import SSH_KEY, config_text, new_secret

pytestmark = pytest.mark.slow

LOCAL = ("configuration", "keys")
DOCTOR = new_secret()


def test_a_line_a_finding(setup: Setup) -> None:
    """The level, the place, a sentence, and the fix; the exit code is that of the worst line."""
    setup.config["hosts"]["pve1"]["port"] = 22
    finding = found(setup.doctor(places=LOCAL).findings, "unknown-setting")
    report = setup.doctor(places=LOCAL, json=False)
    assert (finding.place, finding.sentence.split()[0]) == ("configuration", "hosts.pve1.port")
    assert f"error: configuration: {finding.sentence} / {finding.fix}" in report.stdout.splitlines()
    assert (report.code, report.stderr) == (2, "")


def test_a_program_can_read_it(setup: Setup) -> None:
    """One line of JSON with the version, the time, the worst level, and each finding with all its fields."""
    setup.config["callers"]["operator"]["allow"] = ["status"]
    report = setup.doctor(places=LOCAL)
    [line] = report.stdout.splitlines()
    answer: dict[str, Any] = json.loads(line)
    assert answer.keys() == {"version", "at", "level", "findings"}
    assert (answer["version"], answer["level"], report.code) == (VERSION, "warning", 1)
    assert {tuple(finding) for finding in answer["findings"]} == {("level", "place", "code", "sentence", "fix")}
    for finding in report.findings:
        assert bool(finding.fix) == (finding.level != "ok"), finding


def test_no_secret_is_printed(setup: Setup) -> None:
    """No secret is printed, whatever is wrong with it."""
    bad = ["whsec_aGFsZg==", "whsec_not-base64-at-all", "correct-horse-battery-staple"]
    for number, secret in enumerate(bad):
        setup.config["callers"][f"phone{number}"] = {"secret": secret, "allow": ["status"]}
    setup.config["sessions"]["secret"] = "a-session-secret-that-is-short"
    report = setup.doctor(places=LOCAL, json=False)
    assert report.code == 2
    for secret in (*bad, setup.operator, "a-session-secret-that-is-short", SSH_KEY.splitlines()[2]):
        assert secret not in report.stdout + report.stderr


def test_nothing_to_look_at(setup: Setup) -> None:
    """Without a configuration and a handler's URL, an error names both, and says what to do first."""
    del setup.environment["BREAKGLASS_CONFIG"]
    report = setup.doctor(places=LOCAL)
    finding = found(report.findings, "no-config")
    assert (report.code, "breakglass init" in finding.fix or "BREAKGLASS_CONFIG" in finding.fix) == (2, True)
    assert [name in finding.sentence for name in ("BREAKGLASS_CONFIG", "BREAKGLASS_URL")] == [True, True]


# --- which handler, and as whom ---


def config(urls: list[str] | None = None, **callers: Mapping[str, object]) -> Config:
    operator = {"secret": new_secret(), "allow": ["status", "cycle"]}
    text = config_text({"operator": operator, **callers}, port=1, key=SSH_KEY, host_key="any", urls=urls or ())
    return parse(text, lambda _: "")


def test_which_handler_is_asked() -> None:
    """Without a URL of the caller, the first one of the configuration, or the handler on this machine."""
    assert default_url(config(["https://a.example/", "https://b.example/"]), {}) == "https://a.example/"
    assert default_url(config(), {}) == "http://127.0.0.1:8080"
    assert default_url(config(), {"PORT": "9000"}) == "http://127.0.0.1:9000"
    with pytest.raises(CommandError, match="PORT"):
        default_url(config(), {"PORT": "http"})


def test_who_asks() -> None:
    """It signs as the caller named doctor, if that can sign, because it must not use another caller's key."""
    assert find_key(config(doctor={"secret": DOCTOR, "allow": ["status"]})) == secret_bytes(DOCTOR)
    assert find_key(config()) is None
    assert find_key(config(doctor={"token": "bgt_" + "aB3dE" * 9, "allow": ["status"]})) is None
