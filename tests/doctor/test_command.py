"""The command `doctor` itself: what it prints, its exit codes, and which caller and handler it takes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from breakglass.agents.pve.words import VERSION
from breakglass.auth.signing import secret_bytes
from breakglass.cli.doctor import default_url, find_key
from breakglass.cli.output import CommandError
from breakglass.config.load import parse
from breakglass.config.model import Config

from ..support.doctor import Setup, found
from ..support.forked import fork_command
from ..support.model import Model
from ..support.service import SSH_KEY, config_text, new_secret
from ..support.signals import signal_process
from ..support.stages import until

pytestmark = pytest.mark.slow

LOCAL = ("configuration", "keys")
DOCTOR = new_secret()


def test_a_line_a_finding(setup: Setup) -> None:
    """The level, the place, a sentence, and the fix; the exit code is that of the worst line."""
    setup.config["hosts"]["pve1"]["port"] = 22
    report = setup.doctor(places=LOCAL, json=False)
    line = next(line for line in report.stdout.splitlines() if line.startswith("error: configuration: hosts.pve1.port"))
    sentence, _, fix = line.partition(" / ")
    assert sentence.endswith("is not a setting")
    assert fix.endswith("or take it out")
    assert (report.code, report.stderr) == (2, "")
    *lines, last = report.stdout.splitlines()
    assert {line.split(":")[0] for line in lines} <= {"ok", "warning", "error"}
    counts = [sum(line.startswith(f"{level}:") for line in lines) for level in ("error", "warning")]
    assert [word if word != "no" else "0" for word in last.split()[:3:2]] == [str(count) for count in counts]


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


def test_an_unknown_vm(setup: Setup) -> None:
    """It is a mistake on the command line, and the error names the existing VMs."""
    report = setup.doctor("--vm", "devvm1")
    assert (report.code, report.stdout) == (2, "")
    assert "use devvm" in report.stderr


def test_nothing_to_look_at(setup: Setup) -> None:
    """Without a configuration and a handler's URL, an error names both, and says what to do first."""
    del setup.environment["BREAKGLASS_CONFIG"]
    report = setup.doctor(places=LOCAL)
    finding = found(report.findings, "no-config")
    assert (report.code, "breakglass init" in finding.fix or "BREAKGLASS_CONFIG" in finding.fix) == (2, True)
    assert [name in finding.sentence for name in ("BREAKGLASS_CONFIG", "BREAKGLASS_URL")] == [True, True]
    setup.environment["BREAKGLASS_URL"] = "https://rescue.example/"
    setup.environment["BREAKGLASS_SECRET"] = setup.operator
    assert found(setup.doctor(places=LOCAL).findings, "no-config").level == "ok"


@pytest.mark.parametrize(
    ("name", "value"),
    [("BREAKGLASS_SECRET_FILE", "/nowhere"), ("BREAKGLASS_SECRET", "whsec_AA=="), ("BREAKGLASS_URL", "ftp://x")],
)
def test_a_caller_that_can_not_be_used(setup: Setup, name: str, value: str) -> None:
    """It is a mistake in the environment: nothing is checked."""
    setup.environment[name] = value
    report = setup.doctor()
    assert (report.code, report.stdout, name in report.stderr) == (2, "", True)


def test_an_output_that_can_not_be_written(setup: Setup) -> None:
    """A full disk has its own error and exit code, because the findings are lost."""
    setup.write()
    err = setup.directory / "stderr"
    for words in (["doctor"], ["doctor", "--json"]):
        assert fork_command(words, setup.environment, Path("/dev/full"), err, places=LOCAL) == 2
        assert "can't write the output: No space left on device" in err.read_text()


def test_a_reader_that_has_seen_enough(setup: Setup) -> None:
    """With `head -1`, there is no error, and the exit code is that of all findings."""
    setup.config["callers"]["operator"]["not_after"] = "soon"
    setup.write()
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "breakglass", "doctor"]
    ran = subprocess.run(command, env=setup.environment, cwd="/", stdout=write, stderr=subprocess.PIPE, timeout=100)
    os.close(write)
    assert (ran.returncode, ran.stderr) == (2, b"")


@pytest.mark.real("claude")
def test_ctrl_c(setup: Setup, model: Model) -> None:
    """It ends at once, although a thread of it waits for an answer."""
    model.listing, before = "mute", len(model.listed)
    setup.config["chat"] = {"base_url": model.url, "command": "/nowhere"}
    setup.config["chat"]["credential_file"] = setup.file("credential", "ANTHROPIC_API_KEY=x\n")
    setup.write()
    command = [sys.executable, "-m", "breakglass", "doctor"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=setup.environment, cwd="/", stdout=pipe, stderr=pipe, text=True) as process:
        until(lambda: len(model.listed) > before, "doctor's question")
        signal_process(process.pid, signal.SIGINT)
        _, output = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")


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
